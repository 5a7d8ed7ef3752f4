-- Says how many results a chord takes, once however often it is called: later its tasks are under way.
-- KEYS: mark, size, claim, structure. ARGV: size, life in seconds (0: for ever), JSON of the structure or ''.
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local function set(key, value)
  if ARGV[2] == '0' then redis.call('SET', key, value) else redis.call('SET', key, value, 'EX', ARGV[2]) end
end
redis.call('DEL', KEYS[3])
if ARGV[3] ~= '' then set(KEYS[4], ARGV[3]) end
set(KEYS[2], ARGV[1])
redis.call('SET', KEYS[1], '1', 'EX', 86400)
return 1
