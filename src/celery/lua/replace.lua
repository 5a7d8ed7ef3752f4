-- Removes a message for good and sends others in its place, in one step, if it is still the caller's.
-- Replies 0 if another worker has it; then nothing is sent.
-- KEYS: unacked, unacked_index, leases, list of each message. ARGV: tag, lease, length of what `unacked` holds, each
-- message.
local lease = redis.call('HGET', KEYS[3], ARGV[1])
local size = redis.call('HSTRLEN', KEYS[1], ARGV[1])
if not lease and size == 0 then return 1 end
if lease ~= ARGV[2] then return 0 end
if size ~= 0 and size ~= tonumber(ARGV[3]) then
  redis.call('HDEL', KEYS[3], ARGV[1])
  return 0
end
for i = 4, #KEYS do redis.call('LPUSH', KEYS[i], ARGV[i]) end
redis.call('HDEL', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[1], ARGV[1])
return 1
