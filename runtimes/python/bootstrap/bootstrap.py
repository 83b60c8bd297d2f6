"""Runs a Python handler, `def handler(event, context)`, over the AWS Lambda Runtime API.

Nova starts it once per guest with the handler's name in _HANDLER (`main.handler`: the function
`handler` of /var/task/main.py). It fetches events, calls the handler, and sends back what it returns
or raises. HTTP is spoken by hand: the standard client would double the time of a cold start.
"""
import json
import logging
import os
import socket
import sys
import threading
import time

API = os.environ["AWS_LAMBDA_RUNTIME_API"]
TASK_ROOT = os.environ.get("LAMBDA_TASK_ROOT", "/var/task")
RUNTIME = "/2018-06-01/runtime"
call = threading.local()


class Client:
    """One connection to the Runtime API, kept open."""

    def __init__(self):
        host, port = API.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = self.socket.makefile("rb")

    def request(self, method, path, body=b"", headers=()):
        lines = [f"{method} {path} HTTP/1.1", f"Host: {API}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers]
        self.socket.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        status = self.reader.readline().split()
        if len(status) < 2:
            sys.exit("the Runtime API closed the connection")
        answer = {}
        while (line := self.reader.readline().strip()):
            name, _, value = line.decode("latin-1").partition(":")
            answer[name.lower()] = value.strip()
        return int(status[1]), answer, self.reader.read(int(answer.get("content-length", 0)))


class Identity:
    def __init__(self, fields):
        self.cognito_identity_id = fields.get("cognitoIdentityId")
        self.cognito_identity_pool_id = fields.get("cognitoIdentityPoolId")


class Context:
    """What a handler may ask about its call."""

    def __init__(self, headers):
        environment = os.environ.get
        self.aws_request_id = headers["lambda-runtime-aws-request-id"]
        self.invoked_function_arn = headers.get("lambda-runtime-invoked-function-arn")
        self.function_name = environment("AWS_LAMBDA_FUNCTION_NAME")
        self.function_version = environment("AWS_LAMBDA_FUNCTION_VERSION")
        self.memory_limit_in_mb = environment("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")
        self.log_group_name = environment("AWS_LAMBDA_LOG_GROUP_NAME")
        self.log_stream_name = environment("AWS_LAMBDA_LOG_STREAM_NAME")
        self.client_context = json.loads(headers.get("lambda-runtime-client-context", "null"))
        self.identity = Identity(json.loads(headers.get("lambda-runtime-cognito-identity", "{}")))
        self.tenant_id = headers.get("lambda-runtime-aws-tenant-id")
        self._deadline_ms = int(headers["lambda-runtime-deadline-ms"])

    def get_remaining_time_in_millis(self):
        return max(self._deadline_ms - int(time.time() * 1000), 0)

    def log(self, message):
        print(message, flush=True)

    def __repr__(self):
        fields = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if k[0] != "_")
        return f"Context({fields})"


class InitError(Exception):
    """The handler cannot be loaded."""

    def __init__(self, kind, message, cause=None):
        super().__init__(message)
        self.kind, self.cause = kind, cause


class CallLog(logging.StreamHandler):
    """`[LEVEL] time request-id message`, for the loggers of handlers and libraries."""

    def format(self, record):
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        request_id = getattr(call, "request_id", "-")
        text = super().format(record)
        return f"[{record.levelname}]\t{stamp}.{int(record.msecs):03d}Z\t{request_id}\t{text}"


def load(name):
    """The function that `_HANDLER` names."""
    module_name, _, function_name = name.rpartition(".")
    module_name = module_name.replace("/", ".")
    if not module_name or not function_name:
        raise InitError("Runtime.MalformedHandlerName", f"bad handler '{name}': it is `file.function`")
    import importlib
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        message = f"unable to import module '{module_name}' in {TASK_ROOT}: {error}"
        raise InitError("Runtime.ImportModuleError", message, error) from error
    except SyntaxError as error:
        message = f"syntax error in module '{module_name}': {error}"
        raise InitError("Runtime.UserCodeSyntaxError", message, error) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        where = getattr(module, "__file__", module_name)
        message = f"handler '{function_name}' is missing in module '{module_name}' ({where})"
        raise InitError("Runtime.HandlerNotFound", message)
    return function


def stack_of(error):
    """The lines of the user's code that an exception came through, oldest first."""
    import traceback
    frames = traceback.extract_tb(error.__traceback__)
    own = (__file__, "<frozen importlib")
    frames = [frame for frame in frames if not frame.filename.startswith(own)]
    if not frames and isinstance(error, SyntaxError):
        return ["".join(traceback.format_exception_only(type(error), error))]
    return traceback.format_list([f for f in frames if "/importlib/" not in f.filename])


def error_object(error, kind=None, request_id=None):
    cause = getattr(error, "cause", None) or error
    fields = {
        "errorMessage": str(error), "errorType": kind or type(error).__name__,
        "stackTrace": stack_of(cause),
    }
    if request_id:
        fields["requestId"] = request_id
    lines = "".join(fields["stackTrace"])
    print(f"[ERROR] {fields['errorType']}: {fields['errorMessage']}\n{lines}".rstrip(), file=sys.stderr)
    return json.dumps(fields).encode()


def run(function, event, context):
    result = function(event, context)
    if hasattr(result, "__await__"):
        import asyncio
        if not hasattr(call, "loop"):
            call.loop = asyncio.new_event_loop()
        result = call.loop.run_until_complete(result)
    return result


def serve(function, client, is_only):
    """Fetches and answers events for ever."""
    while True:
        status, headers, body = client.request("GET", f"{RUNTIME}/invocation/next")
        if status != 200:
            sys.exit(f"the Runtime API answered {status}: {body.decode(errors='replace')}")
        context = Context(headers)
        call.request_id = context.aws_request_id
        trace_id = headers.get("lambda-runtime-trace-id")
        # Other threads have other calls.
        if is_only and trace_id:
            os.environ["_X_AMZN_TRACE_ID"] = trace_id
        kind, extra, answer = "response", (), None
        try:
            result = run(function, json.loads(body), context)
            try:
                answer = json.dumps(result, ensure_ascii=False, allow_nan=False).encode()
            except (TypeError, ValueError) as error:
                kind = "error"
                message = f"the result of the handler is no JSON: {error}"
                named = InitError("Runtime.MarshalError", message, error)
                answer = error_object(named, named.kind, context.aws_request_id)
        except Exception as error:
            kind = "error"
            answer = error_object(error, None, context.aws_request_id)
        if kind == "error":
            extra = [("Lambda-Runtime-Function-Error-Type", "Runtime.HandlerError")]
        sys.stdout.flush()
        path = f"{RUNTIME}/invocation/{context.aws_request_id}/{kind}"
        client.request("POST", path, answer, [("Content-Type", "application/json"), *extra])


def main():
    # Through a pipe both would keep what they are given until much later.
    sys.stdout.reconfigure(line_buffering=True)
    sys.stderr.reconfigure(line_buffering=True)
    logging.getLogger().addHandler(CallLog(sys.stdout))
    sys.path[0] = TASK_ROOT
    sys.path.append("/opt/python")
    client = Client()
    try:
        function = load(os.environ["_HANDLER"])
    except Exception as error:
        kind = getattr(error, "kind", None)
        body = error_object(error, kind)
        header = [("Lambda-Runtime-Function-Error-Type", kind or "Runtime.InitError")]
        client.request("POST", f"{RUNTIME}/init/error", body, header)
        sys.exit(1)
    others = int(os.environ.get("AWS_LAMBDA_MAX_CONCURRENCY", "1")) - 1

    def work():
        try:
            serve(function, Client(), False)
        except BaseException as error:
            # A thread that ends by itself would leave a guest that takes fewer calls.
            print(f"[ERROR] {type(error).__name__}: {error}", file=sys.stderr)
            os._exit(error.code if isinstance(getattr(error, "code", None), int) else 1)

    for _ in range(others):
        threading.Thread(target=work, daemon=True).start()
    serve(function, client, others == 0)


if __name__ == "__main__":
    main()
