<?php
// Runs a PHP handler, `function handler($event, $context)`, over the AWS Lambda Runtime API.
//
// Nova starts it once per guest with the handler's name in _HANDLER: `main.handler` is the function
// `handler` of /var/task/main.php, `main.Orders::create` a static method in it; a file that returns a
// closure is that handler, whatever its name. It fetches events, calls the handler, and sends back
// what it returns or throws.
declare(strict_types=1);

const RUNTIME = '/2018-06-01/runtime';

/** What a handler may ask about its call. */
final class LambdaContext
{
    public readonly string $awsRequestId;
    public readonly string $invokedFunctionArn;
    public readonly string $functionName;
    public readonly string $functionVersion;
    public readonly int $memoryLimitInMb;
    public readonly string $logGroupName;
    public readonly string $logStreamName;
    public readonly int $deadlineMs;

    public function __construct(array $headers)
    {
        $this->awsRequestId = $headers['lambda-runtime-aws-request-id'];
        $this->invokedFunctionArn = $headers['lambda-runtime-invoked-function-arn'] ?? '';
        $this->deadlineMs = (int) $headers['lambda-runtime-deadline-ms'];
        $this->functionName = (string) getenv('AWS_LAMBDA_FUNCTION_NAME');
        $this->functionVersion = (string) getenv('AWS_LAMBDA_FUNCTION_VERSION');
        $this->memoryLimitInMb = (int) getenv('AWS_LAMBDA_FUNCTION_MEMORY_SIZE');
        $this->logGroupName = (string) getenv('AWS_LAMBDA_LOG_GROUP_NAME');
        $this->logStreamName = (string) getenv('AWS_LAMBDA_LOG_STREAM_NAME');
    }

    public function getRemainingTimeInMillis(): int
    {
        return max($this->deadlineMs - (int) (microtime(true) * 1000), 0);
    }
}

/** The handler cannot be loaded, or its result not be written. */
final class NamedError extends Exception
{
    public function __construct(public readonly string $type, string $message, ?Throwable $cause = null)
    {
        parent::__construct($message, 0, $cause);
    }
}

/** One connection to the Runtime API, kept open. */
final class RuntimeClient
{
    /** @var resource */
    private $stream;
    /** Where an error goes that PHP gives no way to catch. */
    public string $errorPath = RUNTIME . '/init/error';

    public function __construct()
    {
        $this->stream = stream_socket_client('tcp://' . getenv('AWS_LAMBDA_RUNTIME_API'));
        stream_set_timeout($this->stream, 365 * 24 * 3600);
    }

    public function request(string $method, string $path, string $body = '', array $headers = []): array
    {
        $lines = ["$method $path HTTP/1.1", 'Host: runtime', 'Content-Length: ' . strlen($body), ...$headers];
        $this->write(implode("\r\n", $lines) . "\r\n\r\n" . $body);
        $status = fgets($this->stream);
        if ($status === false) {
            fwrite(STDERR, "the Runtime API closed the connection\n");
            exit(1);
        }
        $answer = [];
        while (($line = trim((string) fgets($this->stream))) !== '') {
            [$name, $value] = explode(':', $line, 2);
            $answer[strtolower($name)] = trim($value);
        }
        $length = (int) ($answer['content-length'] ?? 0);
        $text = $length > 0 ? stream_get_contents($this->stream, $length) : '';
        return [(int) explode(' ', $status)[1], $answer, $text];
    }

    private function write(string $bytes): void
    {
        for ($sent = 0; $sent < strlen($bytes);) {
            $now = fwrite($this->stream, substr($bytes, $sent, 1 << 20));
            if ($now === false || $now === 0) {
                fwrite(STDERR, "the Runtime API closed the connection\n");
                exit(1);
            }
            $sent += $now;
        }
    }

    public function report(array $fields): void
    {
        $lines = array_map(fn ($line) => "  $line\n", $fields['stackTrace']);
        fwrite(STDERR, "[ERROR] {$fields['errorType']}: {$fields['errorMessage']}\n" . implode('', $lines));
        $type = str_starts_with($fields['errorType'], 'Runtime.') ? $fields['errorType'] : 'Function.Error';
        $headers = ['Content-Type: application/json', "Lambda-Runtime-Function-Error-Type: $type"];
        $body = json_encode($fields, JSON_INVALID_UTF8_SUBSTITUTE | JSON_UNESCAPED_SLASHES);
        $this->request('POST', $this->errorPath, $body, $headers);
    }
}

function error_object(Throwable $error): array
{
    $shown = $error instanceof NamedError && $error->getPrevious() ? $error->getPrevious() : $error;
    $place = "{$shown->getFile()}({$shown->getLine()})";
    $stack = [$place];
    foreach ($shown->getTrace() as $frame) {
        if (isset($frame['file']) && $frame['file'] !== __FILE__) {
            $stack[] = "{$frame['file']}({$frame['line']}): {$frame['function']}()";
        }
    }
    return [
        'errorMessage' => $error->getMessage(),
        'errorType' => $error instanceof NamedError ? $error->type : $error::class,
        'stackTrace' => str_starts_with($place, __FILE__) ? [] : $stack,
    ];
}

function load_handler(string $name): callable
{
    $root = getenv('LAMBDA_TASK_ROOT') ?: '/var/task';
    $base = basename($name);
    $dot = strpos($base, '.');
    if (!$dot || $dot === strlen($base) - 1) {
        throw new NamedError('Runtime.MalformedHandlerName', "bad handler '$name': it is `file.function`");
    }
    $file = $root . '/' . (dirname($name) === '.' ? '' : dirname($name) . '/') . substr($base, 0, $dot) . '.php';
    $function = substr($base, $dot + 1);
    if (!is_file($file)) {
        throw new NamedError('Runtime.ImportModuleError', "there is no file $file");
    }
    if (is_file("$root/vendor/autoload.php")) {
        require_once "$root/vendor/autoload.php";
    }
    try {
        $returned = require $file;
    } catch (ParseError $error) {
        $message = "syntax error in {$error->getFile()}, line {$error->getLine()}: {$error->getMessage()}";
        throw new NamedError('Runtime.UserCodeSyntaxError', $message, $error);
    }
    if ($returned instanceof Closure) {
        return $returned;
    }
    if (!is_callable($function)) {
        throw new NamedError('Runtime.HandlerNotFound', "handler '$function' is missing in $file");
    }
    return $function;
}

function serve(RuntimeClient $client, callable $handler): never
{
    while (true) {
        [$status, $headers, $body] = $client->request('GET', RUNTIME . '/invocation/next');
        if ($status !== 200) {
            fwrite(STDERR, "the Runtime API answered $status: $body\n");
            exit(1);
        }
        $context = new LambdaContext($headers);
        putenv('_X_AMZN_TRACE_ID=' . ($headers['lambda-runtime-trace-id'] ?? ''));
        $target = RUNTIME . "/invocation/{$context->awsRequestId}";
        $client->errorPath = "$target/error";
        try {
            $event = json_decode($body, true, 512, JSON_THROW_ON_ERROR);
            $result = $handler($event, $context);
            try {
                $flags = JSON_THROW_ON_ERROR | JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE;
                $answer = json_encode($result, $flags);
            } catch (JsonException $error) {
                throw new NamedError('Runtime.MarshalError', "the result is no JSON: {$error->getMessage()}", $error);
            }
            $client->request('POST', "$target/response", $answer, ['Content-Type: application/json']);
        } catch (Throwable $error) {
            $client->report(error_object($error) + ['requestId' => $context->awsRequestId]);
        }
        $client->errorPath = RUNTIME . '/init/error';
    }
}

// Errors are log lines with their file and line, on stderr, whatever php.ini says.
ini_set('display_errors', 'stderr');
ini_set('log_errors', '0');
ini_set('html_errors', '0');
ini_set('memory_limit', '-1');
set_time_limit(0);
$client = new RuntimeClient();
// Running out of memory, for one, is no exception.
register_shutdown_function(function () use ($client) {
    $error = error_get_last();
    if ($error !== null && $error['type'] & (E_ERROR | E_CORE_ERROR | E_COMPILE_ERROR)) {
        $stack = ["{$error['file']}({$error['line']})"];
        $fields = ['errorMessage' => $error['message'], 'errorType' => 'Runtime.FatalError', 'stackTrace' => $stack];
        $client->report($fields);
    }
});
try {
    $handler = load_handler((string) getenv('_HANDLER'));
} catch (Throwable $error) {
    $client->report(error_object($error));
    exit(1);
}
serve($client, $handler);
