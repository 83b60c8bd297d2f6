# Runs an R handler, `handler <- function(event, context) ...`, over the AWS Lambda Runtime API.
#
# Nova starts it once per guest with the handler's name in _HANDLER: `main.handler` is the function
# `handler` of /var/task/main.r (or main.R). It fetches events, calls the handler, and sends back what it
# returns or stops with.
suppressPackageStartupMessages(library(jsonlite))

nova_runtime <- local({
  runtime <- "/2018-06-01/runtime"
  task_root <- Sys.getenv("LAMBDA_TASK_ROOT", "/var/task")
  place <- strsplit(Sys.getenv("AWS_LAMBDA_RUNTIME_API"), ":", fixed = TRUE)[[1]]
  # Its time limit, seconds: far longer than any guest waits for its next event.
  connection <- socketConnection(place[1], as.integer(place[2]), blocking = TRUE, open = "r+b",
                                 timeout = 365L * 24L * 3600L)

  # Bytes up to and including the next line end, as text without it.
  read_line <- function() {
    bytes <- raw(0)
    repeat {
      byte <- readBin(connection, "raw", 1L)
      if (length(byte) == 0L) {
        message("the Runtime API closed the connection")
        quit(status = 1L)
      }
      if (byte == as.raw(10L)) break
      bytes <- c(bytes, byte)
    }
    sub("\r$", "", rawToChar(bytes))
  }

  read_bytes <- function(count) {
    pieces <- list()
    while (count > 0L) {
      piece <- readBin(connection, "raw", count)
      if (length(piece) == 0L) {
        message("the Runtime API closed the connection")
        quit(status = 1L)
      }
      pieces[[length(pieces) + 1L]] <- piece
      count <- count - length(piece)
    }
    as.raw(unlist(pieces))
  }

  request <- function(method, path, body = "", headers = character(0)) {
    bytes <- charToRaw(enc2utf8(body))
    lines <- c(paste(method, path, "HTTP/1.1"), "Host: runtime",
               paste("Content-Length:", length(bytes)), headers)
    head <- charToRaw(paste0(paste(lines, collapse = "\r\n"), "\r\n\r\n"))
    writeBin(c(head, bytes), connection)
    status <- as.integer(strsplit(read_line(), " ")[[1]][2])
    answer <- list()
    while (nzchar(line <- read_line())) {
      name <- tolower(sub(":.*", "", line))
      answer[[name]] <- trimws(sub("^[^:]*:", "", line))
    }
    text <- rawToChar(read_bytes(as.integer(answer[["content-length"]])))
    Encoding(text) <- "UTF-8"
    list(status = status, headers = answer, body = text)
  }

  context_of <- function(headers) {
    deadline_ms <- as.numeric(headers[["lambda-runtime-deadline-ms"]])
    list(
      aws_request_id = headers[["lambda-runtime-aws-request-id"]],
      invoked_function_arn = headers[["lambda-runtime-invoked-function-arn"]],
      deadline_ms = deadline_ms,
      function_name = Sys.getenv("AWS_LAMBDA_FUNCTION_NAME"),
      function_version = Sys.getenv("AWS_LAMBDA_FUNCTION_VERSION"),
      memory_limit_in_mb = as.integer(Sys.getenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")),
      log_group_name = Sys.getenv("AWS_LAMBDA_LOG_GROUP_NAME"),
      log_stream_name = Sys.getenv("AWS_LAMBDA_LOG_STREAM_NAME"),
      get_remaining_time_in_millis = function() {
        max(floor(deadline_ms - as.numeric(Sys.time()) * 1000), 0)
      }
    )
  }

  # An error with a type of its own, which handlers may raise too.
  named_error <- function(type, message) {
    structure(class = c(type, "error", "condition"), list(message = message, call = NULL))
  }

  error_object <- function(error, calls, request_id = NULL) {
    type <- class(error)[1]
    if (type %in% c("simpleError", "error")) type <- "Error"
    own <- paste0("^(\\.handleSimpleError|attempt|doTryCatch|encode|eval|load_handler|nova_runtime|serve|",
                  "toJSON|tryCatch|tryCatchList|tryCatchOne|value|withCallingHandlers)[[($.]")
    stack <- calls[!grepl(own, calls)]
    message("[ERROR] ", type, ": ", conditionMessage(error))
    for (line in stack) message("  ", line)
    fields <- list(errorMessage = unbox(conditionMessage(error)), errorType = unbox(type),
                   stackTrace = as.character(stack))
    if (!is.null(request_id)) fields$requestId <- unbox(request_id)
    fields
  }

  report <- function(path, fields) {
    type <- if (startsWith(fields$errorType, "Runtime.")) fields$errorType else "Function.Error"
    headers <- c("Content-Type: application/json", paste("Lambda-Runtime-Function-Error-Type:", type))
    request("POST", path, toJSON(fields), headers)
  }

  # The value of an expression, or what went wrong in it and where.
  attempt <- function(expression) {
    calls <- character(0)
    remember <- function(error) {
      # The last two are this handler and what calls it.
      texts <- vapply(sys.calls(), function(call) paste(deparse(call, width.cutoff = 200L), collapse = " ")[1], "")
      calls <<- substr(rev(texts)[-(1:2)], 1L, 200L)
    }
    tryCatch(
      list(value = withCallingHandlers(expression, error = remember)),
      error = function(error) list(error = error, calls = calls)
    )
  }

  load_handler <- function(name) {
    base <- basename(name)
    dot <- regexpr(".", base, fixed = TRUE)
    if (dot <= 1L || dot == nchar(base)) {
      stop(named_error("Runtime.MalformedHandlerName", sprintf("bad handler '%s': it is file.function", name)))
    }
    directory <- if (dirname(name) == ".") task_root else file.path(task_root, dirname(name))
    candidates <- file.path(directory, paste0(substr(base, 1L, dot - 1L), c(".r", ".R")))
    path <- candidates[file.exists(candidates)][1]
    if (is.na(path)) {
      stop(named_error("Runtime.ImportModuleError", paste("there is no file", candidates[1])))
    }
    parsed <- tryCatch(parse(path), error = function(error) {
      stop(named_error("Runtime.UserCodeSyntaxError", sprintf("syntax error in %s: %s", path, conditionMessage(error))))
    })
    for (expression in parsed) eval(expression, globalenv())
    found <- substr(base, dot + 1L, nchar(base))
    if (!exists(found, envir = globalenv(), mode = "function")) {
      stop(named_error("Runtime.HandlerNotFound", sprintf("handler '%s' is missing in %s", found, path)))
    }
    get(found, envir = globalenv(), mode = "function")
  }

  encode <- function(result) {
    tryCatch(
      toJSON(result, auto_unbox = TRUE, null = "null", digits = NA, na = "null"),
      error = function(error) {
        stop(named_error("Runtime.MarshalError", paste("the result is no JSON:", conditionMessage(error))))
      }
    )
  }

  serve <- function(handler) {
    repeat {
      answer <- request("GET", paste0(runtime, "/invocation/next"))
      if (answer$status != 200L) {
        message("the Runtime API answered ", answer$status, ": ", answer$body)
        quit(status = 1L)
      }
      context <- context_of(answer$headers)
      trace_id <- answer$headers[["lambda-runtime-trace-id"]]
      Sys.setenv("_X_AMZN_TRACE_ID" = if (is.null(trace_id)) "" else trace_id)
      target <- paste0(runtime, "/invocation/", context$aws_request_id)
      event <- fromJSON(answer$body, simplifyVector = TRUE)
      done <- attempt({
        # Arguments are evaluated where they are used: not in there, where errors are about JSON.
        result <- handler(event, context)
        encode(result)
      })
      flush(stdout())
      if (is.null(done$error)) {
        request("POST", paste0(target, "/response"), done$value, "Content-Type: application/json")
      } else {
        report(paste0(target, "/error"), error_object(done$error, done$calls, context$aws_request_id))
      }
    }
  }

  main <- function() {
    loaded <- attempt(load_handler(Sys.getenv("_HANDLER")))
    if (!is.null(loaded$error)) {
      report(paste0(runtime, "/init/error"), error_object(loaded$error, loaded$calls))
      quit(status = 1L)
    }
    serve(loaded$value)
  }
  environment()
})

nova_runtime$main()
