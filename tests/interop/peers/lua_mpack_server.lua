-- A server made of libmpack's session object. The library leaves sockets to its user, so this
-- program serves one connection after the other, and one message after the other.

local mpack = require("mpack")
local socket = require("socket")
local unix = require("socket.unix")

local noted = {}

local methods = {
  echo = function(x)
    return x
  end,
  add = function(a, b)
    return a + b
  end,
  fail = function(text)
    error(text, 0)
  end,
  slow = function(seconds, x)
    socket.sleep(seconds)
    return x
  end,
  note = function(x)
    table.insert(noted, x)
    return mpack.NIL
  end,
  notes = function()
    return noted
  end,
}

local function invoke(name, params)
  local method = methods[name]
  if not method then
    return false, "no method " .. tostring(name)
  end
  return pcall(method, unpack(params))
end

-- Whatever has arrived; nil when the peer has gone.
local function read_some(connection)
  socket.select({ connection })
  connection:settimeout(0)
  local whole, failure, part = connection:receive(65536)
  connection:settimeout(nil)
  if failure == "closed" and part == "" then
    return nil
  end
  return whole or part
end

local function serve(connection)
  local session = mpack.Session({ unpack = mpack.Unpacker() })
  local pack = mpack.Packer()
  local bytes = read_some(connection)
  while bytes do
    while #bytes > 0 do
      local kind, id, name, params, position = session:receive(bytes)
      -- Never a position in the same string: with one, receive() of 1.0.7 loses its place.
      bytes = bytes:sub(position)
      if kind == "request" then
        local worked, result = invoke(name, params)
        local outcome = worked and pack(mpack.NIL) .. pack(result) or pack(result) .. pack(mpack.NIL)
        connection:send(session:reply(id) .. outcome)
      elseif kind == "notification" then
        invoke(name, params)
      end
    end
    bytes = read_some(connection)
  end
end

local listener = (unix.stream or unix)()
assert(listener:bind(arg[1]))
assert(listener:listen())
while true do
  local connection = assert(listener:accept())
  local worked, failure = pcall(serve, connection)
  if not worked then
    io.stderr:write(tostring(failure), "\n")
  end
  connection:close()
end
