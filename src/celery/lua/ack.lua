-- Removes a message for good, if it is still the caller's. Replies 0 if another worker has it.
-- KEYS: unacked, unacked_index, leases. ARGV: tag, lease, length of what `unacked` holds.
local lease = redis.call('HGET', KEYS[3], ARGV[1])
local size = redis.call('HSTRLEN', KEYS[1], ARGV[1])
if not lease and size == 0 then return 1 end
if lease ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[3], ARGV[1])
-- Others gave it back and took it themselves: what lies there now is theirs.
if size ~= 0 and size ~= tonumber(ARGV[3]) then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[1], ARGV[1])
return 1
