-- Neovim as a client: it connects to the socket named by g:peer_socket and is called back over
-- the same channel in the last step.

local function report(step, outcome)
  io.stdout:write(vim.fn.json_encode(vim.tbl_extend("error", { step = step }, outcome)), "\n")
end

local function run()
  local channel = vim.fn.sockconnect("pipe", vim.g.peer_socket, { rpc = 1 })
  assert(channel > 0, "cannot connect")
  local function call(...)
    return vim.fn.rpcrequest(channel, ...)
  end

  report("echo", { result = call("echo", "Grüße") })
  report("structure", { result = call("echo", { 1, "two", { true, 3.5, -4 } }) })
  report("add", { result = call("add", 2, 3) })
  local worked, failure = pcall(call, "fail", "no luck")
  assert(not worked, "the failing call worked")
  report("fail", { error = tostring(failure) })
  vim.fn.rpcnotify(channel, "note", "noted")
  report("notes", { result = call("notes") })
  report("nested", { result = call("nested", "nvim_eval", { "6 * 7" }) })
end

local worked, failure = pcall(run)
if not worked then
  io.stderr:write(tostring(failure), "\n")
end
io.stdout:flush()
vim.cmd(worked and "qall!" or "cquit 1")
