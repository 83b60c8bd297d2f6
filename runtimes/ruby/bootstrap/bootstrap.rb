# Runs a Ruby handler, `def handler(event:, context:)`, over the AWS Lambda Runtime API.
#
# Nova starts it once per guest with the handler's name in _HANDLER: `main.handler` is the method
# `handler` of /var/task/main.rb, `main.Orders::Api.create` the method `create` of a module or class in
# it. It fetches events, calls the handler, and sends back what it returns or raises.
require "json"
require "socket"

module NovaRuntime
  API = ENV.fetch("AWS_LAMBDA_RUNTIME_API")
  TASK_ROOT = ENV.fetch("LAMBDA_TASK_ROOT", "/var/task")
  RUNTIME = "/2018-06-01/runtime"

  # What a handler may ask about its call.
  class Context
    attr_reader :aws_request_id, :invoked_function_arn, :deadline_ms, :client_context, :identity,
                :function_name, :function_version, :memory_limit_in_mb, :log_group_name,
                :log_stream_name

    def initialize(headers)
      @aws_request_id = headers.fetch("lambda-runtime-aws-request-id")
      @invoked_function_arn = headers["lambda-runtime-invoked-function-arn"]
      @deadline_ms = headers.fetch("lambda-runtime-deadline-ms").to_i
      @client_context = JSON.parse(headers.fetch("lambda-runtime-client-context", "null"))
      @identity = JSON.parse(headers.fetch("lambda-runtime-cognito-identity", "null"))
      @function_name = ENV["AWS_LAMBDA_FUNCTION_NAME"]
      @function_version = ENV["AWS_LAMBDA_FUNCTION_VERSION"]
      @memory_limit_in_mb = ENV["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]
      @log_group_name = ENV["AWS_LAMBDA_LOG_GROUP_NAME"]
      @log_stream_name = ENV["AWS_LAMBDA_LOG_STREAM_NAME"]
    end

    def get_remaining_time_in_millis
      [@deadline_ms - (Time.now.to_f * 1000).to_i, 0].max
    end
  end

  # The handler cannot be loaded, or its result not be written.
  class NamedError < StandardError
    attr_reader :type

    def initialize(type, message)
      super(message)
      @type = type
    end
  end

  # One connection to the Runtime API, kept open.
  class Client
    def initialize
      host, port = API.split(":")
      @socket = TCPSocket.new(host, port.to_i)
      @socket.setsockopt(Socket::IPPROTO_TCP, Socket::TCP_NODELAY, 1)
    end

    def request(method, path, body = "", headers = {})
      lines = ["#{method} #{path} HTTP/1.1", "Host: #{API}", "Content-Length: #{body.bytesize}"]
      lines.concat(headers.map { |name, value| "#{name}: #{value}" })
      @socket.write(lines.join("\r\n"), "\r\n\r\n", body)
      status = @socket.gets or abort("the Runtime API closed the connection")
      answer = {}
      while (line = @socket.gets.chomp) != ""
        name, value = line.split(":", 2)
        answer[name.downcase] = value.strip
      end
      [status.split[1].to_i, answer, @socket.read(answer.fetch("content-length", "0").to_i)]
    end
  end

  module_function

  # The method that `_HANDLER` names, as something to call with an event and a context.
  def load_handler(name)
    directory, base = File.split(name)
    file, *names = base.split(".")
    if names.empty? || names.size > 2
      message = "bad handler '#{name}': it is `file.method` or `file.Class.method`"
      raise NamedError.new("Runtime.MalformedHandlerName", message)
    end
    path = File.expand_path(File.join(TASK_ROOT, directory, "#{file}.rb"))
    begin
      require path
    rescue LoadError => error
      raise NamedError.new("Runtime.ImportModuleError", "cannot load #{path}: #{error.message}")
    rescue SyntaxError => error
      raise NamedError.new("Runtime.UserCodeSyntaxError", error.message)
    end
    find(path, names)
  end

  def find(path, names)
    method_name = names.last.to_sym
    receiver = names.size == 2 ? Object.const_get(names.first) : Object.new
    method = receiver.method(method_name)
    takes_keywords = method.parameters.any? { |kind, _| %i[key keyreq keyrest].include?(kind) }
    return ->(event, context) { method.call(event: event, context: context) } if takes_keywords

    ->(event, context) { method.call(*[event, context].first(method.arity.negative? ? 2 : method.arity)) }
  rescue NameError
    raise NamedError.new("Runtime.HandlerNotFound", "handler '#{names.join(".")}' is missing in #{path}")
  end

  def error_object(error, request_id = nil)
    type = error.is_a?(NamedError) ? error.type : error.class.name
    stack = (error.backtrace || []).reject { |line| line.include?(__FILE__) }
    message = error.message.to_s.encode("UTF-8", invalid: :replace, undef: :replace)
    warn("[ERROR] #{type}: #{message}", *stack.map { |line| "  #{line}" })
    fields = { errorMessage: message, errorType: type, stackTrace: stack }
    fields[:requestId] = request_id if request_id
    fields
  end

  def report(client, path, fields)
    headers = { "Content-Type" => "application/json" }
    type = fields[:errorType]
    headers["Lambda-Runtime-Function-Error-Type"] = type.start_with?("Runtime.") ? type : "Function.Error"
    client.request("POST", path, JSON.generate(fields), headers)
  end

  def serve(client, handler)
    loop do
      status, headers, body = client.request("GET", "#{RUNTIME}/invocation/next")
      abort("the Runtime API answered #{status}: #{body}") unless status == 200
      context = Context.new(headers)
      ENV["_X_AMZN_TRACE_ID"] = headers["lambda-runtime-trace-id"]
      target = "#{RUNTIME}/invocation/#{context.aws_request_id}"
      begin
        answer = encode(handler.call(JSON.parse(body), context))
        client.request("POST", "#{target}/response", answer, { "Content-Type" => "application/json" })
      rescue StandardError, ScriptError, SystemStackError, NoMemoryError => error
        report(client, "#{target}/error", error_object(error, context.aws_request_id))
      end
    end
  end

  def encode(result)
    JSON.generate(result)
  rescue JSON::GeneratorError, JSON::NestingError, EncodingError => error
    raise NamedError.new("Runtime.MarshalError", "the result is no JSON: #{error.message}")
  end

  def main
    $stdout.sync = true
    $stderr.sync = true
    $LOAD_PATH.unshift(TASK_ROOT, "/opt/ruby/lib")
    client = Client.new
    begin
      handler = load_handler(ENV.fetch("_HANDLER"))
    rescue StandardError, ScriptError => error
      report(client, "#{RUNTIME}/init/error", error_object(error))
      exit(1)
    end
    concurrency = ENV.fetch("AWS_LAMBDA_MAX_CONCURRENCY", "1").to_i
    Thread.report_on_exception = true
    Thread.abort_on_exception = true
    others = Array.new(concurrency - 1) { Thread.new { serve(Client.new, handler) } }
    serve(client, handler)
    others.each(&:join)
  end
end

NovaRuntime.main
