-- Stores a result and tells those who wait for it. A SUCCESS stays; nothing that is not final replaces what is.
-- KEYS: the result, also the channel. ARGV: JSON, life in seconds (0: for ever),
-- 1 if the state is final, 2 if it is and yet replaces no other final one.
local stored = redis.call('GET', KEYS[1])
if stored then
  local ok, meta = pcall(cjson.decode, stored)
  local status = ok and type(meta) == 'table' and meta.status
  if status == 'SUCCESS' then return 0 end
  if ARGV[3] ~= '1' and (status == 'FAILURE' or status == 'REVOKED') then return 0 end
end
if ARGV[2] == '0' then
  redis.call('SET', KEYS[1], ARGV[1])
else
  redis.call('SETEX', KEYS[1], ARGV[2], ARGV[1])
end
redis.call('PUBLISH', KEYS[1], ARGV[1])
return 1
