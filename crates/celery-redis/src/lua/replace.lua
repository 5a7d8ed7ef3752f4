-- Removes a message for good and sends others in its place, in one step, if it is still the caller's.
-- Replies 0 if another worker has it; then nothing is sent.
-- KEYS: unacked, unacked_index, leases, workers that began its task, list of each message.
-- ARGV: tag, lease, length of what `unacked` holds, each message.
local lease = redis.call('HGET', KEYS[3], ARGV[1])
local size = redis.call('HSTRLEN', KEYS[1], ARGV[1])
if not lease and size == 0 then return 1 end
if lease ~= ARGV[2] or size ~= 0 and size ~= tonumber(ARGV[3]) then
  if lease == ARGV[2] then redis.call('HDEL', KEYS[3], ARGV[1]) end
  redis.call('SREM', KEYS[4], cjson.decode(ARGV[2])[1])
  return 0
end
for i = 5, #KEYS do redis.call('LPUSH', KEYS[i], ARGV[i - 1]) end
redis.call('HDEL', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[4])
return 1
