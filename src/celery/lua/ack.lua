-- Removes a message for good, if it is still the caller's. Replies 0 if another worker has it.
-- `size` is the length of what `unacked` holds.
local function ack(unacked, index, leases, tag, expected, size)
  local lease = redis.call('HGET', leases, tag)
  local found = redis.call('HSTRLEN', unacked, tag)
  if not lease and found == 0 then return 1 end
  if lease ~= expected then return 0 end
  redis.call('HDEL', leases, tag)
  -- Others gave it back and took it themselves: what lies there now is theirs.
  if found ~= 0 and found ~= tonumber(size) then return 0 end
  redis.call('ZREM', index, tag)
  redis.call('HDEL', unacked, tag)
  return 1
end
