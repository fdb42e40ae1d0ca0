//! The manual page, `deploy/man/openclaw-gateway.1`, made from what `--help` says and kept in step by a test.

use std::path::Path;

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;

use super::Cli;

/// One page for all commands, each under its whole name.
fn page() -> String {
    let mut command = Cli::command();
    command.build();
    let mut page = Vec::new();
    let man = Man::new(command.clone()).manual("OpenClaw");
    let written = man
        .render_title(&mut page)
        .and_then(|()| man.render_name_section(&mut page))
        .and_then(|()| man.render_synopsis_section(&mut page))
        .and_then(|()| man.render_description_section(&mut page))
        .and_then(|()| man.render_options_section(&mut page));
    written.expect("a vector takes everything");
    let mut page = String::from_utf8(page).expect("it was made of text");
    page.push_str(".SH COMMANDS\n");
    commands(&command, "openclaw-gateway", &mut page);
    page.push_str(
        ".SH \"EXIT STATUS\"\n0: done. 1: failed. 2: wrong usage. 78: a configuration that can't be used.\n\
         .SH \"SEE ALSO\"\nThe documents in docs/ of the source tree; \\fBopenclaw\\-gateway config example\\fR for every setting.\n",
    );
    page
}

fn commands(parent: &Command, name: &str, page: &mut String) {
    for command in parent
        .get_subcommands()
        .filter(|own| own.get_name() != "help" && !own.is_hide_set())
    {
        let name = format!("{name} {}", command.get_name());
        if command.has_subcommands() {
            commands(command, &name, page);
            continue;
        }
        page.push_str(&format!(".SS {name}\n"));
        let mut part = Vec::new();
        // Without what each has from the whole program.
        let own = command
            .clone()
            .display_name(&name)
            .mut_args(|arg| match arg.get_id().as_str() {
                "profile" | "help" => arg.hide(true),
                _ => arg,
            });
        let man = Man::new(own);
        let written = man
            .render_synopsis_section(&mut part)
            .and_then(|()| man.render_description_section(&mut part))
            .and_then(|()| man.render_options_section(&mut part));
        written.expect("a vector takes everything");
        let part = String::from_utf8(part).expect("it was made of text");
        for line in part.lines() {
            match line {
                ".SH SYNOPSIS" | ".SH OPTIONS" => {}
                ".SH DESCRIPTION" => page.push_str(".PP\n"),
                // Said once, by the synopsis of each.
                ".ie \\n(.g .ds Aq \\(aq" | ".el .ds Aq '" => {}
                line => {
                    page.push_str(line);
                    page.push('\n');
                }
            }
        }
    }
}

#[test]
fn the_manual_is_that_of_the_code() {
    let made = page();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/man/openclaw-gateway.1");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).unwrap();
        std::fs::write(&path, &made).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == made,
        "deploy/man/openclaw-gateway.1 is not in step: run UPDATE_DOCS=1 cargo test -p gateway manual"
    );
    for name in ["run", "rollout set", "messages resend", "console"] {
        assert!(
            made.contains(&format!(".SS openclaw-gateway {name}\n")),
            "{name}"
        );
    }
}
