//! How an image's program is called, found in its configuration and files.
//!
//! | what is found | contract |
//! |---|---|
//! | AWS's entrypoint or runtime client in the command, `LAMBDA_TASK_ROOT`, or `/var/runtime/bootstrap` | `lambda` |
//! | a `PORT` in the environment, or an exposed TCP port | `http` |
//! | anything else that can be started | `process`: once per call |
use super::OciError;
use super::config::Start;
use nova_domain::Mode;
use std::collections::BTreeMap;

/// Stands for the input's file in a command.
const INPUT: &str = "{input}";
/// Stands for the function's handler in a command.
const HANDLER: &str = "{handler}";
/// The entrypoint of AWS's base images, which wants the handler as its argument.
const AWS_ENTRYPOINT: &str = "lambda-entrypoint.sh";
/// AWS's runtime clients, as they are named in a command.
const AWS_CLIENTS: [&str; 2] = ["awslambdaric", "aws-lambda-ric"];
/// Set by all of AWS's base images.
const AWS_VARIABLE: &str = "LAMBDA_TASK_ROOT";
/// Where AWS's images have the program that speaks the Runtime API.
pub(super) const AWS_BOOTSTRAP: &str = "/var/runtime/bootstrap";
/// Where a server is told to listen, and the port where nothing else is said.
const PORT: &str = "PORT";
/// See [`PORT`].
const PORT_DEFAULT: u16 = 8080;

/// How functions on an image are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::images) struct Contract {
    /// What was found.
    pub mode: Mode,
    /// Program and arguments in each mode that a user may choose instead.
    pub commands: BTreeMap<Mode, Vec<String>>,
    /// The image's environment.
    pub env: BTreeMap<String, String>,
    /// Where the program starts.
    pub working_dir: String,
}

impl Contract {
    /// Decides from the configuration and whether [`AWS_BOOTSTRAP`] is a program there.
    pub(super) fn find(start: &Start, has_bootstrap: bool) -> Result<Self, OciError> {
        let words: Vec<String> = start.entrypoint.iter().chain(&start.cmd).cloned().collect();
        let is_aws = |word: &String| {
            word.rsplit('/').next() == Some(AWS_ENTRYPOINT)
                || AWS_CLIENTS.iter().any(|client| word.contains(client))
        };
        let names_aws = words.iter().any(is_aws);
        let mut commands = BTreeMap::new();
        if !words.is_empty() {
            let with = |more: Option<&str>| {
                words.iter().cloned().chain(more.map(str::to_owned)).collect::<Vec<_>>()
            };
            commands.insert(Mode::Process, with(Some(INPUT)));
            commands.insert(Mode::Persistent, with(None));
            commands.insert(Mode::Http, with(None));
            // Their last argument is the handler, which a function may bring with its code.
            let wants_handler = names_aws && start.cmd.is_empty();
            commands.insert(Mode::Lambda, with(wants_handler.then_some(HANDLER)));
        } else if has_bootstrap {
            commands.insert(Mode::Lambda, vec![AWS_BOOTSTRAP.to_owned()]);
        } else {
            return Err(OciError::refused(
                "it has neither an entrypoint nor a command, so there is nothing to start",
            ));
        }
        let mut env = start.env.clone();
        let mode = if names_aws || has_bootstrap || env.contains_key(AWS_VARIABLE) {
            Mode::Lambda
        } else if env.contains_key(PORT) || !start.ports.is_empty() {
            Mode::Http
        } else {
            Mode::Process
        };
        env.entry(PORT.to_owned()).or_insert_with(|| port_of(&start.ports).to_string());
        Ok(Self { mode, commands, env, working_dir: start.working_dir.clone() })
    }

    /// Has functions run in this mode instead.
    pub(in crate::images) fn choose(&mut self, mode: Mode) -> Result<(), OciError> {
        if !self.commands.contains_key(&mode) {
            let problem = "it has neither an entrypoint nor a command, so it has mode lambda only";
            return Err(OciError::refused(problem));
        }
        self.mode = mode;
        Ok(())
    }
}

/// The port to listen at, of those that the image exposes.
fn port_of(exposed: &[u16]) -> u16 {
    match exposed {
        [] => PORT_DEFAULT,
        ports if ports.contains(&PORT_DEFAULT) => PORT_DEFAULT,
        ports => ports.iter().copied().min().unwrap_or(PORT_DEFAULT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(entrypoint: &[&str], cmd: &[&str]) -> Start {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        Start { entrypoint: words(entrypoint), cmd: words(cmd), ..Start::default() }
    }

    fn found(start: &Start) -> (Mode, String) {
        let contract = Contract::find(start, false).unwrap();
        (contract.mode, contract.commands[&contract.mode].join(" "))
    }

    #[test]
    fn awss_images_are_known_by_their_entrypoint_client_and_variable() {
        let base = start(&["/lambda-entrypoint.sh"], &["app.handler"]);
        assert_eq!(found(&base), (Mode::Lambda, "/lambda-entrypoint.sh app.handler".into()));
        let language = start(&["/lambda-entrypoint.sh"], &[]);
        assert_eq!(found(&language), (Mode::Lambda, "/lambda-entrypoint.sh {handler}".into()));
        let own = start(&["/usr/bin/python3", "-m", "awslambdaric"], &["app.handler"]);
        assert_eq!(found(&own).0, Mode::Lambda);
        let mut go = start(&["/main"], &[]);
        go.env.insert(AWS_VARIABLE.into(), "/var/task".into());
        assert_eq!(found(&go), (Mode::Lambda, "/main".into()));
        let bare = Contract::find(&start(&[], &[]), true).unwrap();
        assert_eq!(bare.commands, BTreeMap::from([(Mode::Lambda, vec![AWS_BOOTSTRAP.into()])]));
    }

    #[test]
    fn a_server_is_known_by_its_port() {
        let mut server = start(&["/server"], &["--verbose"]);
        server.ports = vec![9090, 3000];
        assert_eq!(found(&server), (Mode::Http, "/server --verbose".into()));
        assert_eq!(Contract::find(&server, false).unwrap().env["PORT"], "3000");
        server.env.insert("PORT".into(), "5000".into());
        assert_eq!(Contract::find(&server, false).unwrap().env["PORT"], "5000");
        server.ports.clear();
        assert_eq!(found(&server).0, Mode::Http);
    }

    #[test]
    fn anything_else_is_a_command_per_call() {
        let batch = start(&["/usr/bin/wc"], &["-c"]);
        assert_eq!(found(&batch), (Mode::Process, "/usr/bin/wc -c {input}".into()));
        let error = Contract::find(&start(&[], &[]), false).unwrap_err().to_string();
        assert!(error.contains("nothing to start"), "{error}");
    }
}
