-- Puts a message back at the right end of its list, where the next one is taken from.
-- Replies 1 if it did, 2 if there is nothing left to put back, 0 if the message is somebody else's by now.
-- KEYS: list, unacked, unacked_index, leases, record of the worker that held it, workers that began its task.
-- ARGV: tag, lease, text of the record ('*': any, '': none), length of what `unacked` holds,
-- text to put back ('': as it is), length of what follows the message in `unacked`.
if ARGV[3] ~= '*' and (redis.call('GET', KEYS[5]) or '') ~= ARGV[3] then return 0 end
-- The caller's own message: its worker lives, and has not died over the task.
if ARGV[3] == '*' then redis.call('SREM', KEYS[6], cjson.decode(ARGV[2])[1]) end
local lease, stored = redis.call('HGET', KEYS[4], ARGV[1]), redis.call('HGET', KEYS[2], ARGV[1])
if not lease and not stored then return 2 end
if lease ~= ARGV[2] then return 0 end
local theirs = stored and #stored ~= tonumber(ARGV[4])
if stored and not theirs then
  local text = ARGV[5]
  if text == '' then text = string.sub(stored, 2, -1 - ARGV[6]) end
  redis.call('RPUSH', KEYS[1], text)
  redis.call('HDEL', KEYS[2], ARGV[1])
end
redis.call('HDEL', KEYS[4], ARGV[1])
if theirs then return 0 end
redis.call('ZREM', KEYS[3], ARGV[1])
return stored and 1 or 2
