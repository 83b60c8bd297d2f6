//! What flags mean, and what is said when something is wrong.
use super::*;
use clap::error::ErrorKind;
use serde_json::{Value, json};

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("nova").chain(line.split_whitespace()))
}

fn body(line: &str) -> Value {
    match parse(line).unwrap().command {
        Command::Register(RegisterArgs { function, .. })
        | Command::Update(UpdateArgs { function, .. }) => {
            Value::Object(function.body(nova_domain::Mode::Process, "handler").unwrap())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn help_shows_no_option_that_means_nothing() {
    let help = |line: &str| parse(&format!("{line} --help")).unwrap_err().to_string();
    for line in ["daemon", "doctor", "setup", "runtime add", "runtime import", "runtime remove"] {
        assert!(!help(line).contains("--url"), "{line}");
        assert!(help(line).contains("--data-dir"), "{line}");
    }
    for line in ["list", "invoke", "runtime list", "secret set"] {
        assert!(help(line).contains("--url"), "{line}");
    }
    assert!(!help("").contains("agent-binary"));
}

#[test]
fn what_a_function_logs_does_not_steer_a_terminal() {
    let hostile = "red \u{1b}[31m\u{7}\ttab \u{9b}2J";
    assert_eq!(output::log_text(hostile, true), "red \\u{1b}[31m\\u{7}\ttab \\u{9b}2J");
    assert_eq!(output::log_text(hostile, false), hostile);
}

#[test]
fn flags_become_the_fields_of_the_api() {
    let line = "register hello -r python -H main.py -m 256 -t 5 --mode persistent \
                --min-replicas 1 --max-replicas 4 --instance-concurrency 2 --vcpus 2 --disk-iops 10 \
                --disk-bandwidth 20 --net-rx-bandwidth 30 --net-tx-bandwidth 40 --tmp-mb 50 \
                -e A=1 --env B=x=y --secret token --layer a --layer b --network none --label team=a --description text";
    let expected = json!({
        "runtime": "python", "handler": "main.py", "memory_mb": 256, "timeout_s": 5,
        "mode": "persistent", "min_replicas": 1, "max_replicas": 4, "instance_concurrency": 2,
        "limits": { "vcpus": 2, "disk_iops": 10, "disk_bandwidth": 20, "net_rx_bandwidth": 30,
                    "net_tx_bandwidth": 40, "tmp_mb": 50 },
        "env_vars": { "A": "1", "B": "x=y" }, "secrets": ["token"], "layers": ["a", "b"], "network": "none",
        "labels": { "team": "a" }, "description": "text",
    });
    assert_eq!(body(line), expected);
    assert_eq!(body("update hello"), json!({}), "what is not given is not sent");
    let allowed = body("update hello --allow 10.0.0.0/8 --allow 192.0.2.1");
    assert_eq!(allowed, json!({ "network": { "allow": ["10.0.0.0/8", "192.0.2.1"] } }));
}

#[test]
fn code_is_packed_and_sent() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("main.py");
    std::fs::write(&file, "print(1)").unwrap();
    let archive = body(&format!("update hello -c {}", file.display()))["code"]["archive"].take();
    assert!(archive.as_str().unwrap().starts_with("H4sI"), "a gzip file in base64");
}

#[test]
fn a_command_line_that_makes_no_sense_is_a_usage_error() {
    for (line, kind) in [
        ("", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
        ("fly", ErrorKind::InvalidSubcommand),
        ("invoke", ErrorKind::MissingRequiredArgument),
        ("delete", ErrorKind::MissingRequiredArgument),
        ("register hello -m lots", ErrorKind::ValueValidation),
        ("register hello -e NOVALUE", ErrorKind::ValueValidation),
        ("register hello --mode batch", ErrorKind::InvalidValue),
        ("register hello --network none --allow 10.0.0.0/8", ErrorKind::ArgumentConflict),
        ("list -o xml", ErrorKind::InvalidValue),
        ("secret set token value --from-file f", ErrorKind::ArgumentConflict),
    ] {
        let error = parse(line).unwrap_err();
        assert_eq!(error.kind(), kind, "{line}");
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

/// The client that `nova list` would use.
fn client(line: &str) -> anyhow::Result<client::Client> {
    let cli = parse(line).unwrap();
    match cli.command {
        Command::List(args) => args.url.client(&cli.data_dir),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_data_directory_can_be_named_before_and_after_the_command() {
    for line in ["--data-dir /tmp/x list", "runtime add --data-dir /tmp/x python"] {
        assert_eq!(parse(line).unwrap().data_dir.path(), Path::new("/tmp/x"), "{line}");
    }
}

#[test]
fn an_address_that_is_none_is_refused() {
    for url in ["127.0.0.1:9000", "ftp://host", "nonsense"] {
        let error = client(&format!("list --url {url}")).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("http://127.0.0.1:9000"), "{error}");
    }
}

#[tokio::test]
async fn without_a_daemon_the_error_says_how_to_start_one() {
    // Bound and closed again: nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let client = client(&format!("list --url http://127.0.0.1:{port}")).unwrap();
    let error = client.get(&["functions"], &[]).await.unwrap_err();
    let error = error.to_string();
    assert!(error.contains("nova daemon") && error.contains(&port.to_string()), "{error}");
}
