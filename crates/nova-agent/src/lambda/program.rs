//! Which program speaks to the Runtime API: the function's own `bootstrap` before the runtime's.
use crate::child::is_executable;
use nova_proto::FunctionSetup;
use std::path::Path;

/// Where a function or a layer brings a program of its own, in the order in which AWS looks.
const OWN_PROGRAMS: [&str; 2] = ["/code/bootstrap", "/opt/bootstrap"];

/// A program that is started in place of the runtime's, with that as its arguments: it may change the
/// environment and then becomes it.
const WRAPPER: &str = "AWS_LAMBDA_EXEC_WRAPPER";

/// Program and arguments.
pub fn command(function: &FunctionSetup) -> Vec<String> {
    let own = OWN_PROGRAMS.iter().find(|path| is_executable(Path::new(path)));
    let command = match own {
        // On AWS, too, an image's entrypoint is what is started.
        _ if function.own_image.as_ref().is_some_and(|image| !image.has_code) => {
            function.command.clone()
        }
        Some(path) => vec![(*path).to_owned()],
        None => function.command.clone(),
    };
    let wrapper = function.env.get(WRAPPER).filter(|wrapper| !wrapper.is_empty());
    wrapper.cloned().into_iter().chain(command).collect()
}
