-- Stores a result and tells those who wait for it. A SUCCESS stays; nothing that is not final replaces what is.
-- The key is the channel, too. Life in seconds (0: for ever). Finality: 1 if the state is final, 2 if it is and yet
-- replaces no other final one. Attempt: the number of attempts before that of a state which is not final, '' for any.
-- Celery from 5.7 on may have stored a result compressed, which no script can read. Then the reply is {its digest, the
-- result}: the caller unpacks the result and calls again with the digest and the JSON. A caller that gives no digest
-- replaces such a result.
local PACKED = '\0celery-compressed\0'
local function store(key, json, life, finality, attempt, digest, unpacked)
  local stored = redis.call('GET', key)
  if stored and stored:sub(1, #PACKED) == PACKED then
    local now = redis.sha1hex(stored)
    if digest and digest ~= now then return {now, stored} end
    stored = digest and unpacked
  end
  if stored then
    local ok, meta = pcall(cjson.decode, stored)
    local status = ok and type(meta) == 'table' and meta.status
    if status == 'SUCCESS' then return 0 end
    if finality ~= '1' and (status == 'FAILURE' or status == 'REVOKED') then return 0 end
    -- A progress that was on its way when the attempt ended.
    local ended = status == 'RETRY' and tonumber(meta.retries)
    if finality == '0' and ended and tonumber(attempt) and tonumber(attempt) <= ended then return 0 end
  end
  if life == '0' then
    redis.call('SET', key, json)
  else
    redis.call('SETEX', key, life, json)
  end
  redis.call('PUBLISH', key, json)
  return 1
end
