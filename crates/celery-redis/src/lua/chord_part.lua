-- Counts the end of one task of a chord's header, once, as workers of Celery 5.3 and 5.7 do. If it is the last,
-- claims the chord for the caller, who alone goes on with it, and replies with {results, structure}; else nothing.
-- KEYS: results (.j), extra size (.t), size (.s), counted (.d), claim (.c), structure.
-- ARGV: id and place of the task, its entry, its score, life in seconds (0: for ever), the caller's claim.
local results, extra, size, counted, claim = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local holder = redis.call('GET', claim)
if holder == 'done' then return false end
-- A worker of 5.3 that ended an earlier run of the same chord has left these.
if redis.call('EXISTS', results) == 0 then redis.call('DEL', counted) end
local unordered = redis.call('TYPE', results).ok == 'list'
local first = redis.call('SADD', counted, ARGV[1]) == 1
if first then
  if unordered then
    redis.call('RPUSH', results, ARGV[2])
  else
    redis.call('ZADD', results, ARGV[3], ARGV[2])
  end
end
if ARGV[4] ~= '0' then
  for i = 1, 4 do redis.call('EXPIRE', KEYS[i], ARGV[4]) end
end
local total = redis.call('GET', size)
if not total then return false end
total = tonumber(total) + tonumber(redis.call('GET', extra) or 0)
if redis.call(unordered and 'LLEN' or 'ZCARD', results) ~= total then return false end
-- A task that comes back was the last only if it had claimed the chord then: a worker of 5.3, which claims
-- nothing, may be sending the body right now.
if holder ~= ARGV[5] and (holder or not first) then return false end
-- The claim outlives a crash of the caller: its message comes back, and it goes on.
redis.call('SET', claim, ARGV[5], 'EX', 86400)
return {redis.call(unordered and 'LRANGE' or 'ZRANGE', results, 0, -1), redis.call('GET', KEYS[6])}
