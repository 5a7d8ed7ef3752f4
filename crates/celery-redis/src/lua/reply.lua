-- Puts a control reply where its client waits, if it still does: a late one would lie there for ever.
-- KEYS: bindings of the replies, list of the client. ARGV: the client's binding, reply, seconds to keep it.
if redis.call('SISMEMBER', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('LPUSH', KEYS[2], ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[3])
return 1
