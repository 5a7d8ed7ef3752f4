-- Takes one entry and records it as unacknowledged, in one step, in kombu's format [message, exchange, routing_key].
-- KEYS: list, unacked, unacked_index, leases, record of the worker.
-- ARGV: place from the right, digest, delivery tag or '', fresh tag, rest of the array, lease, record, its life in ms,
-- tombstone.
local at = -1 - tonumber(ARGV[1])
local raw = redis.call('LINDEX', KEYS[1], at)
if not raw or digest(raw) ~= ARGV[2] then return false end
local tag = ARGV[3]
if tag == '' or redis.call('HEXISTS', KEYS[2], tag) == 1 then tag = ARGV[4] end
-- The pop comes last: if Redis refuses one of these (no memory, wrong type), the message is still in its list.
redis.call('HSET', KEYS[2], tag, '[' .. raw .. ARGV[5])
local now = redis.call('TIME')
redis.call('ZADD', KEYS[3], now[1] + now[2] / 1000000, tag)
redis.call('HSET', KEYS[4], tag, ARGV[6])
redis.call('SET', KEYS[5], ARGV[7], 'PX', ARGV[8])
if at == -1 then
  redis.call('RPOP', KEYS[1])
else
  redis.call('LSET', KEYS[1], at, ARGV[9])
  redis.call('LREM', KEYS[1], -1, ARGV[9])
end
return tag
