-- Puts an overdue message back at the right end of its lists, where the next one is taken from.
-- Replies 1 if it did, 0 if it is no longer what was looked at, 2 if one of the lists is no list.
-- KEYS: unacked, unacked_index, leases, then the lists.
-- ARGV: tag, timeout in seconds, digest of what `unacked` holds, text to put back ('': as it is), length of what
-- follows the message in `unacked`.
if redis.call('HEXISTS', KEYS[3], ARGV[1]) == 1 then return 0 end
local stored, taken = redis.call('HGET', KEYS[1], ARGV[1]), redis.call('ZSCORE', KEYS[2], ARGV[1])
if not stored or not taken or digest(stored) ~= ARGV[3] then return 0 end
-- It may have come back and be taken once more, unchanged.
local time = redis.call('TIME')
if tonumber(taken) > time[1] + time[2] / 1000000 - tonumber(ARGV[2]) then return 0 end
for i = 4, #KEYS do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'list' and kind ~= 'none' then return 2 end
end
local text = ARGV[4]
if text == '' then text = string.sub(stored, 2, -1 - ARGV[5]) end
for i = 4, #KEYS do redis.call('RPUSH', KEYS[i], text) end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
