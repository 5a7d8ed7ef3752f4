-- Sends messages, all or none, once however often it is called.
-- KEYS: mark of these messages, then the list of each. ARGV: life of the mark in seconds, then each text.
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
for i = 2, #KEYS do redis.call('LPUSH', KEYS[i], ARGV[i]) end
redis.call('SET', KEYS[1], '1', 'EX', ARGV[1])
return 1
