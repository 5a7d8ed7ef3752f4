-- Moves one entry to the list of those that nobody can read, and keeps the newest of these.
-- KEYS: list, list of the unreadable. ARGV: place from the right, digest, tombstone, how many to keep.
local at = -1 - tonumber(ARGV[1])
local raw = redis.call('LINDEX', KEYS[1], at)
if not raw or digest(raw) ~= ARGV[2] then return 0 end
redis.call('LPUSH', KEYS[2], raw)
redis.call('LTRIM', KEYS[2], 0, ARGV[4] - 1)
redis.call('LSET', KEYS[1], at, ARGV[3])
redis.call('LREM', KEYS[1], -1, ARGV[3])
return 1
