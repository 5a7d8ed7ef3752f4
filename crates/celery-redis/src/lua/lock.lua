-- Takes a lock, or tells who has it. Writes the worker's record too, so that the lock has a living owner at once.
-- KEYS: locks, counter, record of the worker.
-- ARGV: name, holder as a JSON object without its end, record, its life in ms.
-- Replies {token, holder} if it is taken, else {0, holder}.
local holder = redis.call('HGET', KEYS[1], ARGV[1])
if holder then return {0, holder} end
local token = string.format('%.0f', redis.call('INCR', KEYS[2]))
holder = ARGV[2] .. ', "token": ' .. token .. '}'
redis.call('HSET', KEYS[1], ARGV[1], holder)
redis.call('SET', KEYS[3], ARGV[3], 'PX', ARGV[4])
return {tonumber(token), holder}
