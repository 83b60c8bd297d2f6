//! A static binary to run on `base`, compiled once per test process.
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// Echoes its input, in C without a libc call beyond stdio.
const SOURCE: &str = r#"#include <stdio.h>
int main(int argc, char **argv) {
    FILE *input = argc > 1 ? fopen(argv[1], "r") : NULL;
    if (!input) { fprintf(stderr, "no input file\n"); return 2; }
    fputs("{\"echo\":", stdout);
    for (int c; (c = fgetc(input)) != EOF;) putchar(c);
    fputs("}\n", stdout);
    return 0;
}
"#;

/// The bytes of a static program that answers `{"echo": <input>}`. `NOVA_E2E_STATIC_BINARY` names a
/// ready one for machines without a compiler.
pub fn static_binary() -> Vec<u8> {
    static BINARY: OnceLock<Vec<u8>> = OnceLock::new();
    BINARY
        .get_or_init(|| match std::env::var_os("NOVA_E2E_STATIC_BINARY") {
            Some(path) => std::fs::read(PathBuf::from(path)).expect("the given binary"),
            None => compile(),
        })
        .clone()
}

fn compile() -> Vec<u8> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let source = directory.path().join("echo.c");
    let binary = directory.path().join("echo");
    std::fs::write(&source, SOURCE).expect("writing the source");
    let status = Command::new("cc")
        .args(["-O2", "-static", "-o"])
        .arg(&binary)
        .arg(&source)
        .status()
        .expect("cc is installed");
    assert!(status.success(), "cc failed");
    std::fs::read(&binary).expect("cc made a binary")
}
