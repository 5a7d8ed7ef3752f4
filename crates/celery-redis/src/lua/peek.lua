-- Looks at the oldest entries, from the right, of the first list that has any not seen before.
-- KEYS: lists in the order of service.
-- ARGV: most entries, most bytes of one, how many of its last bytes then; for each list: how many of its oldest
-- entries were seen, digest of the oldest and of the newest of them, how many more may be read.
-- Replies nothing, or {list, digest of its oldest, nothing} if what was seen has moved,
-- or {list, '', entries as {digest, length, text}}.
local window, longest, tail = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
for i, key in ipairs(KEYS) do
  local seen = tonumber(ARGV[4 * i])
  if seen > 0 then
    local oldest, newest = redis.call('LINDEX', key, -1), redis.call('LINDEX', key, -seen)
    local now = oldest and digest(oldest) or ''
    if now ~= ARGV[4 * i + 1] or not newest or digest(newest) ~= ARGV[4 * i + 2] then return {i, now, false} end
  end
  local entries, bytes = {}, 0
  local most = math.min(window, tonumber(ARGV[4 * i + 3]))
  while #entries < most and bytes < longest do
    local text = redis.call('LINDEX', key, -(seen + #entries + 1))
    if not text then break end
    bytes = bytes + #text
    local shown = #text > longest and string.sub(text, -tail) or text
    table.insert(entries, {digest(text), #text, shown})
  end
  if #entries > 0 then return {i, '', entries} end
end
return false
