//! Code in every form that the command line takes, with the modes of its files.
use nova_e2e::{Nova, cli};
use serde_json::{Value, json};
use std::fs::{self, Permissions};
use std::io::{Cursor, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Runs the helper beside it, and says whether another file could be run as well.
const HANDLER: &str = "#!/usr/bin/env python3
import json, os, subprocess
said = subprocess.run(['/code/bin/helper'], capture_output=True, text=True).stdout.strip()
print(json.dumps({'helper': said, 'data': os.access('/code/data.txt', os.X_OK), 'files': sorted(os.listdir('/code'))}))
";

/// What the code is made of: name, content, mode.
const FILES: &[(&str, &[u8], u32)] = &[
    ("handler", HANDLER.as_bytes(), 0o755),
    ("bin/helper", b"#!/bin/sh\necho helped\n", 0o755),
    ("data.txt", b"data", 0o644),
];

fn write_directory(directory: &Path) {
    for (name, content, mode) in FILES {
        let path = directory.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(*mode)).unwrap();
    }
}

fn zip_of_files() -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content, mode) in FILES {
        let options = zip::write::SimpleFileOptions::default().unix_permissions(*mode);
        archive.start_file(*name, options).unwrap();
        archive.write_all(content).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

#[tokio::test]
async fn a_file_can_be_executed_in_the_guest_where_it_could_be_before() {
    let nova = Nova::from_env();
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    write_directory(&at("directory"));
    fs::write(at("directory/.novaignore"), "*.log\ncache/\n").unwrap();
    fs::create_dir_all(at("directory/cache/deep")).unwrap();
    for left_out in ["notes.log", "cache/deep/file"] {
        fs::write(at("directory").join(left_out), "x").unwrap();
    }
    fs::write(at("code.tar.gz"), super::bad_input::tar_gz(FILES)).unwrap();
    fs::write(at("code.zip"), zip_of_files()).unwrap();
    let name = format!("e2e-packages-{}", std::process::id());
    for (form, command) in
        [("directory", "register"), ("code.tar.gz", "update"), ("code.zip", "update")]
    {
        let path = at(form);
        let runtime: &[&str] = if command == "register" { &["-r", "python"] } else { &[] };
        let deployed = cli(&[&[command, &name, "-c", path.to_str().unwrap()], runtime].concat());
        assert_eq!(deployed.status, 0, "{form}: {deployed:?}");
        let called = cli(&["invoke", &name]);
        let answer: Value = serde_json::from_str(&called.stdout).unwrap_or_default();
        let expected =
            json!({"helper": "helped", "data": false, "files": ["bin", "data.txt", "handler"]});
        assert_eq!(answer, expected, "{form}: {called:?}");
    }
    nova.delete(&format!("/functions/{name}")).await.ok();
}
