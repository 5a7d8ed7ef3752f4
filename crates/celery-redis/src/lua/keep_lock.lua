-- Whether a lock is still the caller's: 1, or 0. One that Redis has forgotten (a restart without its data, a failover)
-- is written again, unless a lock was taken since: then somebody else may have had it meanwhile.
-- KEYS: locks, counter. ARGV: name, holder, token.
local holder = redis.call('HGET', KEYS[1], ARGV[1])
if holder then return holder == ARGV[2] and 1 or 0 end
if tonumber(redis.call('GET', KEYS[2]) or 0) > tonumber(ARGV[3]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('SET', KEYS[2], ARGV[3])
return 1
