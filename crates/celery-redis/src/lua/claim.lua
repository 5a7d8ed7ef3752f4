-- Takes entries and records them as unacknowledged, in one step, in kombu's format [message, exchange, routing_key].
-- KEYS: list, unacked, unacked_index, leases, record of the worker.
-- ARGV: record, its life in ms, tombstone; for each entry, from the right end on: place from the right, digest,
-- delivery tag or '', fresh tag, rest of the array, lease.
-- Replies the tag of each, or nothing for one that is no longer in its place.
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
redis.call('SET', KEYS[5], ARGV[1], 'PX', ARGV[2])
local tags, taken = {}, 0
for i = 4, #ARGV, 6 do
  local at = -1 - ARGV[i] + taken
  local raw = redis.call('LINDEX', KEYS[1], at)
  if raw and digest(raw) == ARGV[i + 1] then
    local tag = ARGV[i + 2]
    if tag == '' or redis.call('HEXISTS', KEYS[2], tag) == 1 then tag = ARGV[i + 3] end
    -- The pop comes last: if Redis refuses one of these (no memory, wrong type), the message is still in its list.
    redis.call('HSET', KEYS[2], tag, '[' .. raw .. ARGV[i + 4])
    redis.call('ZADD', KEYS[3], now, tag)
    redis.call('HSET', KEYS[4], tag, ARGV[i + 5])
    if at == -1 then
      redis.call('RPOP', KEYS[1])
    else
      redis.call('LSET', KEYS[1], at, ARGV[3])
      redis.call('LREM', KEYS[1], -1, ARGV[3])
    end
    taken = taken + 1
    table.insert(tags, tag)
  else
    table.insert(tags, false)
  end
end
return tags
