//! `nova init`: a new directory with a program that runs, an event to call it with, and what `nova dev`
//! needs to know. Nothing that exists is written to.
use super::super::function_args::ModeArg;
use super::{EVENT_FILE, PROJECT_FILE};
use anyhow::{Context, bail};
use clap::Args;
use nova_domain::{FunctionConfig, FunctionName, Mode, RuntimeId};
use nova_vm::images::Starter;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

#[derive(Debug, Args)]
pub struct InitArgs {
    /// Name of the function and of the new directory
    name: String,
    /// Runtime or compiled language, for example python or go
    #[arg(short, long)]
    runtime: String,
    /// How it is run: a process per call, one that stays, or a handler as on AWS Lambda
    #[arg(long, default_value = "process")]
    mode: ModeArg,
}

/// `nova init`
pub fn init(args: InitArgs) -> anyhow::Result<ExitCode> {
    let name = FunctionName::parse(&args.name)?;
    let runtime = RuntimeId::parse(&args.runtime)?;
    let starter = Starter::new(&runtime, args.mode.into())?;
    let directory = Path::new(name.as_str());
    match DirBuilder::new().create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            bail!("{name} is here already; choose another name, or remove it")
        }
        other => other.with_context(|| format!("directory {name}"))?,
    }
    for File { path, text, mode } in files(&name, &runtime, &starter) {
        let path = directory.join(path);
        let written = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
        written
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| path.display().to_string())?;
        eprintln!("made {}", path.display());
    }
    eprintln!("next: cd {name} && nova dev");
    Ok(ExitCode::SUCCESS)
}

struct File {
    path: String,
    text: String,
    mode: u32,
}

/// All of a project.
fn files(name: &FunctionName, runtime: &RuntimeId, starter: &Starter) -> Vec<File> {
    let plain = |path: &str, text: String| File { path: path.to_owned(), text, mode: 0o644 };
    let mut files = vec![
        plain(PROJECT_FILE, project_file(name, runtime, starter)),
        plain(EVENT_FILE, "{\"name\": \"Ada\"}\n".to_owned()),
        plain("README.md", readme(name, runtime, starter)),
        plain(".novaignore", ignored(starter)),
    ];
    files.extend(starter.files.iter().map(|(path, text)| File {
        path: path.clone(),
        text: text.clone(),
        // What is started by its own first line has to be executable.
        mode: if text.starts_with("#!") { 0o755 } else { 0o644 },
    }));
    files
}

fn project_file(name: &FunctionName, runtime: &RuntimeId, starter: &Starter) -> String {
    let Starter { mode, handler, build, .. } = starter;
    let mut text = format!(
        "# What `nova dev` and `nova invoke --local` run. The fields are those of POST /functions.\n\
         name: {name}\nruntime: {runtime}\nmode: {}\nhandler: {handler}\n",
        mode.as_str()
    );
    if let Some(memory) = memory_mb(starter) {
        text += &format!("memory_mb: {memory}\n");
    }
    if let Some(build) = build {
        // Block style: whatever the command holds, it needs no quotes.
        text += &format!(
            "# Run before the directory is packed; it writes the handler.\nbuild: |\n  {build}\n"
        );
    }
    text
}

/// The memory to ask for, where the default is too little.
fn memory_mb(starter: &Starter) -> Option<u32> {
    let usual = RuntimeId::parse("base").map(|runtime| FunctionConfig::new(runtime).memory_mb);
    usual.is_ok_and(|usual| usual < starter.memory_min_mb).then_some(starter.memory_min_mb)
}

fn readme(name: &FunctionName, runtime: &RuntimeId, starter: &Starter) -> String {
    let Starter { mode, handler, files, build, .. } = starter;
    let sources: Vec<String> = files.iter().map(|(path, _)| format!("`{path}`")).collect();
    let mut flags = format!("--runtime {runtime} --mode {} --handler {handler}", mode.as_str());
    if let Some(memory) = memory_mb(starter) {
        flags += &format!(" --memory {memory}");
    }
    let build_once = build.as_ref().map(|build| {
        format!("Compile it (`nova dev` and `nova invoke --local` do so by themselves):\n\n```sh\n{build}\n```\n\n")
    });
    let what = match mode {
        Mode::Process => "a process for each call",
        Mode::Persistent => "one process for many calls",
        Mode::Lambda => "a handler as on AWS Lambda",
        Mode::Http => "an HTTP server",
    };
    format!(
        "# {name}\n\nA function for Nova: runtime `{runtime}`, {what}. The program is in {}.\n\n\
         Deploy it on every save, call it with `{EVENT_FILE}`, and see its log and result:\n\n\
         ```sh\nnova dev\n```\n\n\
         Run it once on this machine without a daemon (as root):\n\n\
         ```sh\nnova invoke --local --payload @{EVENT_FILE}\n```\n\n{}\
         Deploy it, call it, deploy a change:\n\n\
         ```sh\nnova register {name} {flags} --code .\nnova invoke {name} --payload @{EVENT_FILE}\nnova update {name} --code .\n```\n\n\
         `{PROJECT_FILE}` holds its settings; what `.novaignore` lists is not deployed.\n",
        sources.join(", "),
        build_once.unwrap_or_default(),
    )
}

fn ignored(starter: &Starter) -> String {
    let mut text = format!(
        "# Not deployed; written as in a .gitignore.\nREADME.md\n{EVENT_FILE}\n{PROJECT_FILE}\n"
    );
    if starter.build.is_some() {
        text += "build/\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// The files of a project, as `init` would write them.
    fn project(runtime: &str, mode: Mode) -> Vec<File> {
        let runtime = RuntimeId::parse(runtime).unwrap();
        let starter = Starter::new(&runtime, mode).unwrap();
        files(&FunctionName::parse("hello").unwrap(), &runtime, &starter)
    }

    fn text<'a>(files: &'a [File], path: &str) -> &'a str {
        let file = files.iter().find(|file| file.path == path);
        &file.unwrap_or_else(|| panic!("no {path}")).text
    }

    #[test]
    fn every_language_gets_a_whole_project_in_each_of_its_modes() {
        let mut projects = 0;
        for language in Starter::languages().unwrap() {
            for mode in [Mode::Process, Mode::Persistent, Mode::Lambda] {
                let runtime = RuntimeId::parse(&language).unwrap();
                let Ok(starter) = Starter::new(&runtime, mode) else { continue };
                projects += 1;
                let files = project(&language, mode);
                let fields: Value = serde_saphyr::from_str(text(&files, PROJECT_FILE)).unwrap();
                assert_eq!(fields["name"], "hello");
                assert_eq!(fields["runtime"], language.as_str());
                assert_eq!(fields["mode"], mode.as_str());
                assert_eq!(fields["build"].as_str().map(str::trim), starter.build.as_deref());
                let mut config = FunctionConfig::new(runtime);
                config.mode = mode;
                config.handler = fields["handler"].as_str().unwrap().to_owned();
                config.validate().unwrap();
                let event: Value = serde_json::from_str(text(&files, EVENT_FILE)).unwrap();
                assert_eq!(event["name"], "Ada");
                let readme = text(&files, "README.md");
                assert!(readme.contains(&format!("nova register hello --runtime {language}")));
                assert!(text(&files, ".novaignore").contains("event.json"));
            }
        }
        assert!(projects > 80, "{projects}");
    }

    #[test]
    fn what_starts_by_itself_is_executable_and_what_needs_memory_asks_for_it() {
        let base = project("base", Mode::Lambda);
        let bootstrap = base.iter().find(|file| file.path == "bootstrap").unwrap();
        assert_eq!(bootstrap.mode, 0o755);
        let clojure = project("clojure", Mode::Process);
        assert!(text(&clojure, PROJECT_FILE).contains("memory_mb: 256\n"));
        assert!(text(&clojure, "README.md").contains("--memory 256"));
        assert!(!text(&project("python", Mode::Process), PROJECT_FILE).contains("memory_mb"));
    }
}
