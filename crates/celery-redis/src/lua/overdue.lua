-- Looks at what was taken longer ago than a visibility timeout, the latest first. What is leased is left out: its
-- lease decides. Tags without a message are dropped, as kombu does.
-- KEYS: unacked, unacked_index, leases.
-- ARGV: timeout in seconds, how many to skip, most tags, most bytes of one entry, how many of its last bytes then.
-- Replies {tags looked at, of these not to be touched, entries as {tag, digest, length, text}}.
local time = redis.call('TIME')
local before = string.format('%.6f', time[1] + time[2] / 1000000 - tonumber(ARGV[1]))
local most, longest, tail = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local tags = redis.call('ZREVRANGEBYSCORE', KEYS[2], before, '-inf', 'LIMIT', ARGV[2], most)
local seen, left, entries, bytes = 0, 0, {}, 0
for _, tag in ipairs(tags) do
  if bytes >= longest then break end
  seen = seen + 1
  if redis.call('HEXISTS', KEYS[3], tag) == 1 then
    left = left + 1
  else
    local stored = redis.call('HGET', KEYS[1], tag)
    if stored then
      local shown = #stored > longest and string.sub(stored, -tail) or stored
      bytes = bytes + #shown
      table.insert(entries, {tag, digest(stored), #stored, shown})
    else
      redis.call('ZREM', KEYS[2], tag)
    end
  end
end
return {seen, left, entries}
