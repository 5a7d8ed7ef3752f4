-- Returns one entry of a list, unless the entry is longer than the limit.
-- KEYS: list. ARGV: index, limit in bytes.
local entry = redis.call('LINDEX', KEYS[1], ARGV[1])
return entry and #entry <= tonumber(ARGV[2]) and entry
