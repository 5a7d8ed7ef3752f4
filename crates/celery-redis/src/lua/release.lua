-- Deletes a key if it holds what the caller wrote. KEYS: the key. ARGV: what it wrote.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
