-- Forgets a chord that the caller has claimed and is done with.
-- KEYS: results, extra size, size, counted, claim. ARGV: the caller's claim, 1 if it has failed.
if redis.call('GET', KEYS[5]) ~= ARGV[1] then return 0 end
if ARGV[2] == '1' then
  -- As Celery 5.7 leaves it: the results can be looked at, and without a size nobody goes on.
  redis.call('DEL', KEYS[3], KEYS[5])
else
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
  redis.call('SET', KEYS[5], 'done', 'EX', 300)
end
return 1
