-- Runs a Lua handler, `function handler(event, context)`, over the AWS Lambda Runtime API.
--
-- Nova starts it once per guest with the handler's name in _HANDLER: `main.handler` is what
-- /var/task/main.lua defines as the global `handler`, or the field `handler` of the table that it
-- returns. It fetches events, calls the handler, and sends back what it returns or raises.
local cjson = require("cjson")
local socket = require("socket")

local RUNTIME = "/2018-06-01/runtime"
local TASK_ROOT = os.getenv("LAMBDA_TASK_ROOT") or "/var/task"
local api = os.getenv("AWS_LAMBDA_RUNTIME_API")
local json = cjson.new()
-- Numbers that JSON does not have are errors, not text that looks like them.
json.encode_invalid_numbers(false)
json.encode_sparse_array(true)

local host, port = api:match("^(.*):(%d+)$")
local connection = assert(socket.connect(host, tonumber(port)))
connection:settimeout(nil)
connection:setoption("tcp-nodelay", true)

local function closed()
  io.stderr:write("the Runtime API closed the connection\n")
  os.exit(1)
end

local function request(method, path, body, headers)
  body = body or ""
  local lines = { method .. " " .. path .. " HTTP/1.1", "Host: " .. api, "Content-Length: " .. #body }
  for name, value in pairs(headers or {}) do
    lines[#lines + 1] = name .. ": " .. value
  end
  local sent = connection:send(table.concat(lines, "\r\n") .. "\r\n\r\n" .. body)
  local status = sent and connection:receive("*l")
  if not status then closed() end
  local answer = {}
  while true do
    local line = connection:receive("*l")
    if not line then closed() end
    if line == "" then break end
    local name, value = line:match("^([^:]+):%s*(.*)$")
    answer[name:lower()] = value
  end
  local length = tonumber(answer["content-length"]) or 0
  local text = length > 0 and connection:receive(length) or ""
  return tonumber(status:match("^%S+ (%d+)")), answer, text
end

local function context_of(headers)
  local deadline_ms = tonumber(headers["lambda-runtime-deadline-ms"])
  return {
    aws_request_id = headers["lambda-runtime-aws-request-id"],
    invoked_function_arn = headers["lambda-runtime-invoked-function-arn"],
    deadline_ms = deadline_ms,
    function_name = os.getenv("AWS_LAMBDA_FUNCTION_NAME"),
    function_version = os.getenv("AWS_LAMBDA_FUNCTION_VERSION"),
    memory_limit_in_mb = tonumber(os.getenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")),
    log_group_name = os.getenv("AWS_LAMBDA_LOG_GROUP_NAME"),
    log_stream_name = os.getenv("AWS_LAMBDA_LOG_STREAM_NAME"),
    get_remaining_time_in_millis = function()
      return math.max(math.floor(deadline_ms - socket.gettime() * 1000), 0)
    end,
    log = function(message)
      io.stdout:write(tostring(message), "\n")
    end,
  }
end

-- An error with a type of its own, as handlers may raise it too: { type = ..., message = ... }.
local function named(kind, message)
  return { type = kind, message = message }
end

-- For xpcall: what was raised, with the stack as far as it is the handler's.
local function with_stack(raised)
  if type(raised) == "table" and raised.stack then return raised end
  local stack = {}
  for line in debug.traceback("", 2):gmatch("[^\n]+") do
    local place = line:match("^%s+(.*)$")
    if place and not place:find("bootstrap.lua", 1, true) and not place:find("^%[C%]") then
      stack[#stack + 1] = place
    end
  end
  return { raised = raised, stack = stack }
end

local function error_object(failure, request_id)
  local raised = failure.raised
  local kind, message = "Error", tostring(raised)
  if type(raised) == "table" then
    kind = tostring(raised.type or kind)
    message = tostring(raised.message or message)
  end
  io.stderr:write("[ERROR] ", kind, ": ", message, "\n")
  for _, line in ipairs(failure.stack) do
    io.stderr:write("  ", line, "\n")
  end
  return { errorMessage = message, errorType = kind, requestId = request_id, stackTrace = failure.stack }
end

local function report(path, fields)
  local kind = fields.errorType:match("^Runtime%.") and fields.errorType or "Function.Error"
  -- An empty table is an object to cjson.
  local has_stack = #fields.stackTrace > 0
  if not has_stack then fields.stackTrace = nil end
  local body = json.encode(fields)
  if not has_stack then body = body:sub(1, -2) .. ',"stackTrace":[]}' end
  request("POST", path, body, {
    ["Content-Type"] = "application/json", ["Lambda-Runtime-Function-Error-Type"] = kind,
  })
end

local function load_handler(name)
  local base, fields = name:match("^(.-[^./]+)%.([^/]+)$")
  while base and base:match("[^/]*$"):find(".", 1, true) do
    local shorter, more = base:match("^(.*[^./]+)%.([^/]+)$")
    base, fields = shorter, more .. "." .. fields
  end
  if not base then
    error(named("Runtime.MalformedHandlerName", "bad handler '" .. name .. "': it is `file.function`"))
  end
  local path = TASK_ROOT .. "/" .. base .. ".lua"
  local file = io.open(path)
  if not file then error(named("Runtime.ImportModuleError", "there is no file " .. path)) end
  file:close()
  local chunk, problem = loadfile(path)
  if not chunk then error(named("Runtime.UserCodeSyntaxError", problem)) end
  local ran, returned = xpcall(chunk, with_stack, base)
  if not ran then
    if tostring(returned.raised):find("module '[^']+' not found:") then
      returned.raised = named("Runtime.ImportModuleError", returned.raised)
    end
    error(returned)
  end
  for _, start in ipairs({ type(returned) == "table" and returned or {}, _G }) do
    local value = start
    for field in fields:gmatch("[^.]+") do
      value = type(value) == "table" and value[field] or nil
    end
    if type(value) == "function" then return value end
  end
  error(named("Runtime.HandlerNotFound", "handler '" .. fields .. "' is missing in " .. path))
end

local function serve(handler)
  while true do
    local status, headers, body = request("GET", RUNTIME .. "/invocation/next")
    if status ~= 200 then
      io.stderr:write("the Runtime API answered ", status, ": ", body, "\n")
      os.exit(1)
    end
    local context = context_of(headers)
    local target = RUNTIME .. "/invocation/" .. context.aws_request_id
    local ok, answer = xpcall(function()
      local result = handler(json.decode(body), context)
      if result == nil then return "null" end
      local encoded, text = pcall(json.encode, result)
      if not encoded then error(named("Runtime.MarshalError", "the result is no JSON: " .. tostring(text))) end
      return text
    end, with_stack)
    if ok then
      request("POST", target .. "/response", answer, { ["Content-Type"] = "application/json" })
    else
      report(target .. "/error", error_object(answer, context.aws_request_id))
    end
  end
end

io.stdout:setvbuf("line")
io.stderr:setvbuf("line")
package.path = TASK_ROOT .. "/?.lua;" .. TASK_ROOT .. "/?/init.lua;" .. package.path
local ok, handler = xpcall(load_handler, with_stack, os.getenv("_HANDLER"))
if not ok then
  report(RUNTIME .. "/init/error", error_object(handler))
  os.exit(1)
end
serve(handler)
