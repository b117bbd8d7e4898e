-- A client made of libmpack's session object, with a blocking socket.

local mpack = require("mpack")
local socket = require("socket")
local unix = require("socket.unix")

local session = mpack.Session({ unpack = mpack.Unpacker() })
local pack = mpack.Packer()
local connection = (unix.stream or unix)()
assert(connection:connect(arg[1]))

-- What the other side may call while we wait for it.
local methods = {
  answer = function()
    return 42
  end,
}

local function to_json(value)
  if type(value) == "table" then
    local items = {}
    for _, item in ipairs(value) do
      table.insert(items, to_json(item))
    end
    return "[" .. table.concat(items, ",") .. "]"
  elseif type(value) == "string" then
    return '"' .. value:gsub('[%c"\\]', function(char)
      return string.format("\\u%04x", char:byte())
    end) .. '"'
  end
  return tostring(value)
end

local function report(step, key, value)
  io.stdout:write('{"step":"', step, '","', key, '":', to_json(value), "}\n")
end

local function read_some()
  socket.select({ connection })
  connection:settimeout(0)
  local whole, failure, part = connection:receive(65536)
  connection:settimeout(nil)
  assert(failure ~= "closed" or part ~= "", "the connection was closed")
  return whole or part
end

local function receive_some()
  local bytes = read_some()
  while #bytes > 0 do
    local kind, id_or_done, method_or_error, params_or_result, position = session:receive(bytes)
    -- Never a position in the same string: with one, receive() of 1.0.7 loses its place.
    bytes = bytes:sub(position)
    if kind == "request" then
      local result = methods[method_or_error](unpack(params_or_result))
      connection:send(session:reply(id_or_done) .. pack(mpack.NIL) .. pack(result))
    elseif kind == "response" then
      id_or_done(method_or_error, params_or_result)
    end
  end
end

local function start(method, params, done)
  connection:send(session:request(done) .. pack(method) .. pack(params))
end

local function call(method, params)
  local failure, result
  local finished = false
  start(method, params, function(...)
    failure, result = ...
    finished = true
  end)
  while not finished do
    receive_some()
  end
  if failure ~= mpack.NIL then
    error(failure, 0)
  end
  return result
end

report("echo", "result", call("echo", { "Grüße" }))
report("structure", "result", call("echo", { { 1, "two", { true, 3.5, -4 } } }))
report("add", "result", call("add", { 2, 3 }))

local worked, failure = pcall(call, "fail", { "no luck" })
assert(not worked, "the failing call worked")
report("fail", "error", failure)

local results, open = {}, 50
for n = 1, open do
  start("add", { n - 1, 1 }, function(_, result)
    results[n] = result
    open = open - 1
  end)
end
while open > 0 do
  receive_some()
end
report("pipelined", "result", results)

connection:send(session:notify() .. pack("note") .. pack({ "noted" }))
report("notes", "result", call("notes", {}))
report("nested", "result", call("nested", { "answer", {} }))
