-- Removes a message for good, if it is still the caller's. Replies 0 if another worker has it.
-- `size` is the length of what `unacked` holds, `begun` the workers that began its task.
local function ack(unacked, index, leases, begun, tag, expected, size)
  local lease = redis.call('HGET', leases, tag)
  local found = redis.call('HSTRLEN', unacked, tag)
  if not lease and found == 0 then return 1 end
  if lease == expected then redis.call('HDEL', leases, tag) end
  -- Others gave it back and took it themselves: what lies there now is theirs. The caller lives: no death over it.
  if lease ~= expected or found ~= 0 and found ~= tonumber(size) then
    redis.call('SREM', begun, cjson.decode(expected)[1])
    return 0
  end
  redis.call('ZREM', index, tag)
  redis.call('HDEL', unacked, tag)
  redis.call('DEL', begun)
  return 1
end
