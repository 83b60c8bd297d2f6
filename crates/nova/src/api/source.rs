//! Whether code can be run as it is, or has something to be built first.
//!
//! A program of a compiled language is never text. So what lies where the program should be tells: text
//! that no interpreter is named for is source. Where nothing lies there, files of the language do. Lists of
//! packages, and programs that can be made to start sooner, count only where their builder is installed:
//! without it code is run as it is, with what it brings along.
use nova_domain::{BuildKind, FunctionConfig, Mode};
use nova_vm::images::code::{CodeError, UploadKind, canonicalise};
use nova_vm::images::{DependencyRecipe, PrecompileRecipe, SourceNames};
use std::io::{self, Read};

/// What a canonical archive holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Something to be run as it is: the archive again.
    Program(Vec<u8>),
    /// Something to be built, in an archive as the builder wants it.
    ToBuild(BuildKind, Vec<u8>),
}

/// Why code could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The archive is damaged.
    #[error("the code cannot be read: {0}")]
    Archive(#[from] io::Error),
    /// The text cannot be stored.
    #[error(transparent)]
    Code(#[from] CodeError),
}

/// What can be built for a language.
#[derive(Debug, Default)]
pub struct Rules {
    /// What sources are called, where it is compiled.
    pub source: Option<SourceNames>,
    /// Lists of packages.
    pub dependencies: Option<DependencyRecipe>,
    /// Programs that can be made to start sooner.
    pub precompile: Option<PrecompileRecipe>,
}

/// Looks at a canonical archive of code.
pub fn find(
    archive: Vec<u8>,
    config: &FunctionConfig,
    rules: &Rules,
) -> Result<Found, SourceError> {
    let program = match config.mode {
        Mode::Process | Mode::Persistent | Mode::Http => config.handler.as_str(),
        Mode::Lambda => "bootstrap",
    };
    let ending = rules.source.as_ref().map(|names| format!(".{}", names.extension));
    let is_named = |path: &str| ending.as_ref().is_some_and(|ending| path.ends_with(ending));
    let lists = rules.dependencies.iter().flat_map(|recipe| &recipe.files);
    let lists: Vec<&String> = lists.collect();
    let (mut at_program, mut files, mut sources, mut listed) = (None, 0, 0, false);
    for entry in tar::Archive::new(&archive[..]).entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        files += 1;
        let path = entry.path()?.to_string_lossy().into_owned();
        sources += usize::from(is_named(&path));
        listed |= lists.iter().any(|list| **list == path);
        if path == program {
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            at_program = Some(content);
        }
    }
    if let Some(names) = &rules.source {
        match &at_program {
            None if sources > 0 => return Ok(Found::ToBuild(BuildKind::Compile, archive)),
            Some(text) if is_named(program) && is_source(text) => {
                return Ok(Found::ToBuild(BuildKind::Compile, archive));
            }
            // A single text that was given without a name of its own.
            Some(text) if files == 1 && is_source(text) => {
                let archive = canonicalise(text, UploadKind::Inline { handler: &names.file })?;
                return Ok(Found::ToBuild(BuildKind::Compile, archive));
            }
            _ => {}
        }
    }
    let begins = |program: &Vec<u8>| {
        let recipe = rules.precompile.as_ref();
        recipe.is_some_and(|recipe| program.starts_with(recipe.begins_with.as_bytes()))
    };
    if at_program.as_ref().is_some_and(begins) {
        return Ok(Found::ToBuild(BuildKind::Precompile, archive));
    }
    if listed {
        return Ok(Found::ToBuild(BuildKind::Dependencies, archive));
    }
    Ok(Found::Program(archive))
}

/// Text that the kernel would not run.
fn is_source(content: &[u8]) -> bool {
    !content.starts_with(b"#!") && !content.contains(&0) && str::from_utf8(content).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nova_domain::RuntimeId;

    /// What these files are to Go.
    fn found(mode: Mode, handler: &str, files: &[(&str, &[u8])]) -> Found {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o755);
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, name, *content).unwrap();
        }
        let archive = canonicalise(&tar.into_inner().unwrap(), UploadKind::Archive).unwrap();
        let mut config = FunctionConfig::new(RuntimeId::parse("go").unwrap());
        (config.mode, config.handler) = (mode, handler.into());
        let dependencies = DependencyRecipe { files: vec!["list.txt".into()], command: vec![] };
        let precompile = PrecompileRecipe { begins_with: "\0asm".into(), command: vec![] };
        let rules = Rules {
            source: Some(SourceNames { extension: "go".into(), file: "main.go".into() }),
            dependencies: Some(dependencies),
            precompile: Some(precompile),
        };
        find(archive, &config, &rules).unwrap()
    }

    /// The names of the files of source.
    fn names_of(found: Found) -> Vec<String> {
        let Found::ToBuild(BuildKind::Compile, archive) = found else { panic!("no source") };
        let mut archive = tar::Archive::new(&archive[..]);
        let entries = archive.entries().unwrap();
        entries.map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect()
    }

    const ELF: &[u8] = b"\x7fELF\x02\x01\x01\0";
    const GO: &[u8] = b"package main\n";

    #[test]
    fn a_program_is_run_as_it_is() {
        let is_program = |found| matches!(found, Found::Program(_));
        let process = |files| found(Mode::Process, "handler", files);
        assert!(is_program(process(&[("handler", ELF)])));
        assert!(is_program(process(&[("handler", b"#!/bin/sh\n")])));
        assert!(is_program(process(&[("handler", ELF), ("main.go", GO)])));
        assert!(is_program(process(&[("readme.txt", b"nothing")])));
        assert!(is_program(found(Mode::Lambda, "main.handler", &[("bootstrap", ELF)])));
    }

    #[test]
    fn a_text_where_the_program_should_be_is_source_under_its_languages_name() {
        let source = found(Mode::Process, "handler", &[("handler", GO)]);
        assert_eq!(names_of(source), ["main.go"]);
        let source = found(Mode::Lambda, "main.handler", &[("bootstrap", GO)]);
        assert_eq!(names_of(source), ["main.go"]);
    }

    #[test]
    fn files_of_the_language_without_a_program_are_source_and_keep_their_names() {
        let source = found(Mode::Process, "handler", &[("go.mod", b"module x"), ("x.go", GO)]);
        assert_eq!(names_of(source), ["go.mod", "x.go"]);
        let source = found(Mode::Process, "x.go", &[("x.go", GO), ("y.go", GO)]);
        assert_eq!(names_of(source), ["x.go", "y.go"]);
    }

    #[test]
    fn lists_of_packages_and_programs_that_can_start_sooner_are_recognised() {
        let kind = |files: &[(&str, &[u8])]| match found(Mode::Process, "handler", files) {
            Found::ToBuild(kind, _) => Some(kind),
            Found::Program(_) => None,
        };
        let script: &[u8] = b"#!/bin/sh\n";
        assert_eq!(
            kind(&[("handler", script), ("list.txt", b"a\n")]),
            Some(BuildKind::Dependencies)
        );
        assert_eq!(kind(&[("handler", script), ("lib/list.txt", b"a\n")]), None);
        assert_eq!(kind(&[("handler", b"\0asm\x01\0\0\0")]), Some(BuildKind::Precompile));
    }
}
