-- Frees a lock if its holder, and that one's record, are still what the caller saw. Replies 1 if it did.
-- KEYS: locks, record of the worker that holds it. ARGV: name, holder, text of the record ('*': any, '': none).
if ARGV[3] ~= '*' and (redis.call('GET', KEYS[2]) or '') ~= ARGV[3] then return 0 end
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])
