-- Tells entries of a list apart. Long ones by length and ends, for hashing 50 MB would stop the server.
local function digest(text)
  if #text > 1048576 then text = #text .. string.sub(text, 1, 4096) .. string.sub(text, -65536) end
  return string.sub(redis.sha1hex(text), 1, 32)
end
