// Runs a JavaScript handler, `exports.handler = async (event, context) => ...` or
// `export const handler = ...`, over the AWS Lambda Runtime API.
//
// Nova starts it once per guest, in Node, Deno or Bun, with the handler's name in _HANDLER
// (`main.handler`: what /var/task/main.js, .mjs, .ts ... exports as `handler`). It fetches events, calls the
// handler, and sends back what that returns, throws, or hands to its callback.
import { AsyncLocalStorage } from "node:async_hooks";
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { Writable } from "node:stream";
import { pathToFileURL } from "node:url";
import util from "node:util";

const [host, port] = process.env.AWS_LAMBDA_RUNTIME_API.split(":");
const taskRoot = process.env.LAMBDA_TASK_ROOT ?? "/var/task";
const runtime = "/2018-06-01/runtime";
const endings = [".js", ".mjs", ".cjs", ".ts", ".mts", ".cts"];
const agent = new http.Agent({ keepAlive: true });
const concurrency = Number(process.env.AWS_LAMBDA_MAX_CONCURRENCY ?? 1);

// Which call a line of the log is for.
const calls = new AsyncLocalStorage();
let onlyCall;
const currentCall = () => (concurrency > 1 ? calls.getStore() : onlyCall);

function open(method, target, headers, onAnswer, onError) {
  const request = http.request({ host, port, agent, method, path: target, headers }, (answer) => {
    const pieces = [];
    answer.on("data", (piece) => pieces.push(piece));
    answer.on("end", () => {
      onAnswer({ status: answer.statusCode, headers: answer.headers, body: Buffer.concat(pieces) });
    });
  });
  request.on("error", onError);
  return request;
}

function send(method, target, body = "", headers = {}) {
  return new Promise((resolve, reject) => {
    const bytes = Buffer.from(body);
    const all = { "Content-Length": bytes.length, ...headers };
    open(method, target, all, resolve, reject).end(bytes);
  });
}

class LoadError extends Error {
  constructor(type, message, cause) {
    super(message, { cause });
    this.name = type;
  }
}

// A stack trace as far as it is the user's: below that is this file, and what called it.
function userLines(lines) {
  const end = lines.findIndex((line) => line.includes("/var/runtime/"));
  return end < 0 ? lines : lines.slice(0, end);
}

// What goes wrong before a handler runs, as Node, Deno and Bun call it.
const loadErrors = {
  MODULE_NOT_FOUND: "Runtime.ImportModuleError",
  ERR_MODULE_NOT_FOUND: "Runtime.ImportModuleError",
  ResolveMessage: "Runtime.ImportModuleError",
  SyntaxError: "Runtime.UserCodeSyntaxError",
  BuildMessage: "Runtime.UserCodeSyntaxError",
};

// What a caller and the log get of anything that was thrown.
function errorObject(error) {
  const isError = util.types.isNativeError(error) || error instanceof Error;
  if (!isError) {
    const errorMessage = typeof error === "string" ? error : util.inspect(error);
    return { errorMessage, errorType: typeof error, stackTrace: [] };
  }
  const shown = error instanceof LoadError && error.cause ? error.cause : error;
  return {
    errorMessage: String(error.message),
    errorType: String(error.name || "Error"),
    stackTrace: userLines(String(shown.stack ?? "").split("\n")),
  };
}

function report(fields) {
  const first = `${fields.errorType}: ${fields.errorMessage}`;
  const lines = fields.stackTrace[0] === first ? fields.stackTrace : [first, ...fields.stackTrace];
  process.stderr.write(`${lines.join("\n")}\n`);
  return JSON.stringify(fields);
}

const errorHeaders = (fields) => ({
  "Content-Type": "application/json",
  "Lambda-Runtime-Function-Error-Type": fields.errorType.startsWith("Runtime.")
    ? fields.errorType
    : "Function.Error",
});

// `console` as people know it from AWS: time, request id, level, and the text on one line's start.
function prefixLogs() {
  const levels = { log: "INFO", info: "INFO", debug: "DEBUG", trace: "TRACE", warn: "WARN", error: "ERROR" };
  for (const [name, level] of Object.entries(levels)) {
    const stream = name === "warn" || name === "error" ? process.stderr : process.stdout;
    console[name] = (...values) => {
      const id = currentCall()?.awsRequestId ?? "-";
      stream.write(`${new Date().toISOString()}\t${id}\t${level}\t${util.format(...values)}\n`);
    };
  }
}

// Functions that stream their answers, as AWS's own runtime offers them.
const streaming = Symbol("streaming");
const httpResponse = "application/vnd.awslambda.http-integration-response";
globalThis.awslambda = {
  streamifyResponse(handler) {
    handler[streaming] = true;
    return handler;
  },
  HttpResponseStream: {
    from(stream, prelude) {
      stream.setContentType(httpResponse);
      stream.write(JSON.stringify(prelude) + "\0".repeat(8));
      return stream;
    },
  },
};

async function load(name) {
  const directory = path.dirname(name);
  const [module, ...names] = path.basename(name).split(".");
  if (!module || names.length === 0 || names.includes("")) {
    throw new LoadError("Runtime.MalformedHandlerName", `bad handler '${name}': it is file.function`);
  }
  const base = path.resolve(taskRoot, directory, module);
  const file = endings.map((ending) => base + ending).find((candidate) => fs.existsSync(candidate));
  if (!file) {
    const message = `cannot find ${base} with one of the endings ${endings.join(" ")}`;
    throw new LoadError("Runtime.ImportModuleError", message);
  }
  let exported;
  try {
    exported = await import(pathToFileURL(file));
  } catch (error) {
    // Deno's are all TypeErrors; this one says so.
    const isSyntax = String(error?.message).startsWith("SyntaxError:");
    const name = isSyntax ? "SyntaxError" : error?.name;
    const type = loadErrors[name] ?? loadErrors[error?.code];
    if (!type) throw error;
    throw new LoadError(type, `cannot load ${file}: ${error.message}`, error);
  }
  // A CommonJS module is the default export of what `import` gives.
  for (const start of [exported, exported.default]) {
    const found = names.reduce((value, key) => value?.[key], start);
    if (typeof found === "function") return found;
  }
  throw new LoadError("Runtime.HandlerNotFound", `${file} exports no function '${names.join(".")}'`);
}

function contextOf(headers) {
  const deadlineMs = Number(headers["lambda-runtime-deadline-ms"]);
  const json = (text) => (text ? JSON.parse(text) : undefined);
  return {
    callbackWaitsForEmptyEventLoop: true,
    functionName: process.env.AWS_LAMBDA_FUNCTION_NAME,
    functionVersion: process.env.AWS_LAMBDA_FUNCTION_VERSION,
    memoryLimitInMB: process.env.AWS_LAMBDA_FUNCTION_MEMORY_SIZE,
    logGroupName: process.env.AWS_LAMBDA_LOG_GROUP_NAME,
    logStreamName: process.env.AWS_LAMBDA_LOG_STREAM_NAME,
    invokedFunctionArn: headers["lambda-runtime-invoked-function-arn"],
    awsRequestId: headers["lambda-runtime-aws-request-id"],
    clientContext: json(headers["lambda-runtime-client-context"]),
    identity: json(headers["lambda-runtime-cognito-identity"]),
    tenantId: headers["lambda-runtime-aws-tenant-id"],
    getRemainingTimeInMillis: () => Math.max(deadlineMs - Date.now(), 0),
  };
}

// A handler returns its result, or a promise of it, or takes a callback.
function invoke(handler, event, context) {
  return new Promise((resolve, reject) => {
    const callback = (error, result) => (error == null ? resolve(result) : reject(error));
    context.done = callback;
    context.succeed = resolve;
    context.fail = reject;
    const result = handler(event, context, callback);
    if (typeof result?.then === "function" || handler.length < 3) resolve(result);
  });
}

function encode(result) {
  try {
    return JSON.stringify(result) ?? "null";
  } catch (error) {
    throw new LoadError("Runtime.MarshalError", `the result is no JSON: ${error.message}`, error);
  }
}

// Streams what the handler writes. One that throws half-way says so behind the body.
async function stream(handler, event, context, target) {
  let type = "application/octet-stream";
  let request;
  let settle;
  const answered = new Promise((resolve, reject) => {
    settle = { resolve, reject };
  });
  const begin = () => {
    request ??= open("POST", `${target}/response`, {
      "Content-Type": type,
      "Lambda-Runtime-Function-Response-Mode": "streaming",
      "Transfer-Encoding": "chunked",
      Trailer: "Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body",
    }, settle.resolve, settle.reject);
    return request;
  };
  const output = new Writable({
    write: (piece, encoding, done) => begin().write(piece, encoding, done),
    final: (done) => begin().end(done),
  });
  output.setContentType = (value) => { type = value; };
  try {
    await handler(event, output, context);
    if (!output.writableEnded) output.end();
  } catch (error) {
    const fields = errorObject(error);
    const body = Buffer.from(report(fields)).toString("base64");
    begin().addTrailers({
      "Lambda-Runtime-Function-Error-Type": errorHeaders(fields)["Lambda-Runtime-Function-Error-Type"],
      "Lambda-Runtime-Function-Error-Body": body,
    });
    begin().end();
  }
  await answered;
}

async function serveOne(handler, headers, body) {
  const context = contextOf(headers);
  const target = `${runtime}/invocation/${context.awsRequestId}`;
  if (concurrency > 1) calls.enterWith(context);
  else onlyCall = context;
  if (headers["lambda-runtime-trace-id"]) {
    process.env._X_AMZN_TRACE_ID = headers["lambda-runtime-trace-id"];
  }
  const event = JSON.parse(body);
  if (handler[streaming]) return stream(handler, event, context, target);
  try {
    const result = encode(await invoke(handler, event, context));
    await send("POST", `${target}/response`, result, { "Content-Type": "application/json" });
  } catch (error) {
    const fields = { ...errorObject(error), requestId: context.awsRequestId };
    await send("POST", `${target}/error`, report(fields), errorHeaders(fields));
  }
}

async function serve(handler) {
  for (;;) {
    const { status, headers, body } = await send("GET", `${runtime}/invocation/next`);
    if (status !== 200) throw new Error(`the Runtime API answered ${status}: ${body}`);
    await serveOne(handler, headers, body);
  }
}

// What nobody catches ends the process, as it does elsewhere; the call learns why.
async function endWith(error, type) {
  const fields = errorObject(error);
  const call = currentCall();
  if (type) fields.errorMessage = `${fields.errorType}: ${fields.errorMessage}`;
  fields.errorType = type ?? fields.errorType;
  const target = call ? `${runtime}/invocation/${call.awsRequestId}/error` : `${runtime}/init/error`;
  try {
    await send("POST", target, report(fields), errorHeaders(fields));
  } finally {
    process.exit(1);
  }
}

process.on("uncaughtException", (error) => endWith(error, undefined));
process.on("unhandledRejection", (error) => endWith(error, "Runtime.UnhandledPromiseRejection"));
prefixLogs();
try {
  const handler = await load(process.env._HANDLER);
  await Promise.all(Array.from({ length: concurrency }, () => serve(handler)));
} catch (error) {
  await endWith(error);
}
