//! Every installed language that calls handlers: its example, and how its failures look. What is
//! installed is what the daemon says; a language without an entry below fails the suite.
use nova_e2e::{FunctionUnderTest, Nova, setting};
use serde_json::{Value, json};

/// How a language fails. Each handler fails when the event asks for it (`raise`, `exit`), and answers
/// otherwise.
struct Language {
    id: &'static str,
    handler: &'static str,
    /// The type of what it raises.
    raised: &'static str,
    /// A file that cannot be parsed, and one that defines something else.
    broken: &'static str,
    other: &'static str,
}

const LANGUAGES: &[Language] = &[
    Language {
        id: "python",
        handler: "import sys\ndef handler(event, context):\n    if event == 'raise': raise ValueError('no such order')\n    if event == 'exit': sys.exit(3)\n    return event\n",
        raised: "ValueError",
        broken: "def handler(:\n",
        other: "def other(): pass\n",
    },
    Language { id: "node", ..JAVASCRIPT },
    Language { id: "bun", ..JAVASCRIPT },
    Language {
        id: "deno",
        handler: MODULE,
        other: "export const other = () => 1;\n",
        broken: "export const handler = (=> 1;\n",
        ..JAVASCRIPT
    },
    Language {
        id: "typescript",
        handler: MODULE,
        other: "export const other = () => 1;\n",
        broken: "export const handler = (=> 1;\n",
        ..JAVASCRIPT
    },
    Language {
        id: "ruby",
        handler: "def handler(event:, context:)\n  raise ArgumentError, 'no such order' if event == 'raise'\n  exit 3 if event == 'exit'\n  event\nend\n",
        raised: "ArgumentError",
        broken: "def handler(:\n",
        other: "def other; end\n",
    },
    Language {
        id: "php",
        handler: "<?php\nfunction handler($event, $context) {\n  if ($event === 'raise') throw new DomainException('no such order');\n  if ($event === 'exit') exit(3);\n  return $event;\n}\n",
        raised: "DomainException",
        broken: "<?php\nfunction handler( {\n",
        other: "<?php\nfunction other() {}\n",
    },
    Language {
        id: "perl",
        handler: "sub handler {\n  my ($event) = @_;\n  die bless({}, 'My::Error') if $event eq 'raise';\n  exit 3 if $event eq 'exit';\n  return $event;\n}\n1;\n",
        raised: "My::Error",
        broken: "sub handler {\n  my $x = ;\n}\n",
        other: "sub other {}\n1;\n",
    },
    Language {
        id: "lua",
        handler: "function handler(event)\n  if event == 'raise' then error({ type = 'OrderError', message = 'no such order' }) end\n  if event == 'exit' then os.exit(3) end\n  return event\nend\n",
        raised: "OrderError",
        broken: "function handler(\n",
        other: "function other() end\n",
    },
    Language {
        id: "r",
        handler: "handler <- function(event, context) {\n  if (event == 'raise') stop('no such order')\n  if (event == 'exit') quit(status = 3)\n  event\n}\n",
        raised: "Error",
        broken: "handler <- function( {\n",
        other: "other <- function() 1\n",
    },
];

const JAVASCRIPT: Language = Language {
    id: "",
    handler: "exports.handler = async (event) => {\n  if (event === 'raise') throw new RangeError('no such order');\n  if (event === 'exit') process.exit(3);\n  return event;\n};\n",
    raised: "RangeError",
    broken: "exports.handler = async (=> 1;\n",
    other: "exports.other = () => 1;\n",
};

const MODULE: &str = "import process from 'node:process';\nexport const handler = async (event: unknown) => {\n  if (event === 'raise') throw new RangeError('no such order');\n  if (event === 'exit') process.exit(3);\n  return event;\n};\n";

/// The languages that are installed and call handlers: all with the mode, but `base`, whose programs
/// speak the Runtime API themselves.
async fn installed(nova: &Nova) -> Vec<&'static Language> {
    let runtimes = nova.get("/runtimes").await.ok();
    let ids = runtimes["items"].as_array().expect("runtimes").iter().filter_map(|runtime| {
        let modes = runtime["modes"].as_array().expect("modes");
        let calls_handlers = runtime["installed"] == true && modes.contains(&json!("lambda"));
        let id = runtime["id"].as_str().expect("an id").to_owned();
        (calls_handlers && id != "base").then_some(id)
    });
    let find = |id: String| {
        let found = LANGUAGES.iter().find(|language| language.id == id);
        found.unwrap_or_else(|| panic!("{id} has a lambda mode: say here how its handlers fail"))
    };
    let languages: Vec<_> = ids.map(find).collect();
    // What is not installed is not tried, so what `e2e/run` installs (SUITE_RUNTIMES there) has to be.
    let required: &[&str] = match setting("NOVA_E2E_BACKEND").as_str() {
        "container" => &["python", "node", "ruby", "php"],
        _ => &["python", "node"],
    };
    for id in required {
        assert!(languages.iter().any(|language| language.id == *id), "{id} is not installed");
    }
    languages
}

async fn function(nova: &Nova, language: &Language, code: &str) -> FunctionUnderTest {
    nova.function(language.id, code, json!({"mode": "lambda", "memory_mb": 256})).await
}

fn error_of(error: &Value) -> (&str, &str) {
    let text = |name: &str| error["detail"][name].as_str().unwrap_or_else(|| panic!("{error}"));
    assert!(error["detail"]["stackTrace"].is_array(), "{error}");
    (text("errorType"), text("errorMessage"))
}

#[tokio::test]
async fn each_languages_example_answers_and_stays() {
    let nova = Nova::from_env();
    for language in installed(&nova).await {
        let path = format!(
            "{}/../runtimes/{}/examples/lambda/handler",
            env!("CARGO_MANIFEST_DIR"),
            language.id
        );
        let example =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let function = function(&nova, language, &example).await;
        for calls in 1..=2 {
            let output = function.output(&json!({"name": "Ada"})).await;
            assert_eq!(
                output,
                json!({"message": "Hello, Ada!", "calls": calls}),
                "{}",
                language.id
            );
        }
        function.delete().await;
    }
}

#[tokio::test]
async fn each_language_says_what_was_raised_and_goes_on() {
    let nova = Nova::from_env();
    for language in installed(&nova).await {
        let function = function(&nova, language, language.handler).await;
        assert_eq!(function.output(&json!("é")).await, "é", "{}", language.id);
        let error = function.failure(&json!("raise"), "function_failed").await;
        assert_eq!(error_of(&error).0, language.raised, "{error}");
        let stack = error["detail"]["stackTrace"].to_string();
        assert!(!stack.contains("/var/runtime"), "{}: {stack}", language.id);
        let error = function.failure(&json!("exit"), "function_exited").await;
        assert!(error["message"].as_str().unwrap().contains("status 3"), "{error}");
        assert_eq!(function.output(&json!("again")).await, "again", "{}", language.id);
        function.delete().await;
    }
}

#[tokio::test]
async fn each_language_names_the_file_that_it_cannot_load() {
    let nova = Nova::from_env();
    for language in installed(&nova).await {
        for (code, error_type) in [
            (language.broken, "Runtime.UserCodeSyntaxError"),
            (language.other, "Runtime.HandlerNotFound"),
        ] {
            let function = function(&nova, language, code).await;
            let error = function.failure(&json!({}), "function_not_started").await;
            let (named, message) = error_of(&error);
            assert_eq!(named, error_type, "{}: {error}", language.id);
            assert!(message.contains("main."), "{}: {error}", language.id);
            function.delete().await;
        }
        let function = function(&nova, language, language.handler).await;
        function.update(&json!({"handler": "elsewhere.handler"})).await;
        let error = function.failure(&json!({}), "function_not_started").await;
        let (named, message) = error_of(&error);
        assert_eq!(named, "Runtime.ImportModuleError", "{}: {error}", language.id);
        assert!(message.contains("elsewhere"), "{}: {error}", language.id);
        function.delete().await;
    }
}
