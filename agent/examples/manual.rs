//! Manual pages and shell completions, made from the command line's own definitions, into a folder.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::Shell;
use why502::cli::Cli;

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1) else {
        eprintln!("usage: manual FOLDER");
        return ExitCode::from(2);
    };
    match write(Path::new(&folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", Path::new(&folder).display());
            ExitCode::FAILURE
        }
    }
}

fn write(folder: &Path) -> std::io::Result<()> {
    let (pages, completions) = (folder.join("man"), folder.join("completions"));
    fs::create_dir_all(&pages)?;
    fs::create_dir_all(&completions)?;
    let mut root = Cli::command();
    root.build();
    clap_mangen::generate_to(root.clone(), &pages)?;
    for (shell, name) in [
        (Shell::Bash, "why502"),
        (Shell::Zsh, "_why502"),
        (Shell::Fish, "why502.fish"),
    ] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut root.clone(), "why502", &mut script);
        fs::write(completions.join(name), script)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use why502::config::Settings;

    use super::*;

    #[test]
    fn every_command_has_a_page_with_all_of_its_options() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path()).unwrap();
        let mut root = Cli::command();
        root.build();
        let commands: Vec<_> = std::iter::once(&root)
            .chain(root.get_subcommands())
            .collect();
        assert_eq!(commands.len(), 6);
        for command in commands {
            let name = match command.get_name() {
                "why502" => "why502".to_owned(),
                name => format!("why502-{name}"),
            };
            let page = fs::read_to_string(folder.path().join(format!("man/{name}.1"))).unwrap();
            let page = page.replace('\\', "");
            for option in command.get_arguments() {
                let named = match option.get_long() {
                    Some(long) => format!("--{long}"),
                    None => option.get_id().as_str().to_uppercase(),
                };
                assert!(
                    page.to_uppercase().contains(&named.to_uppercase()),
                    "{name}: {named}"
                );
                assert!(option.get_help().is_some(), "{name} {named} has no help");
            }
        }
        for shell in ["why502", "_why502", "why502.fish"] {
            let script = fs::read_to_string(folder.path().join("completions").join(shell)).unwrap();
            for word in ["capture", "report", "node"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }

    #[test]
    fn the_service_is_started_as_the_program_can_be() {
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
        let unit = fs::read_to_string(deploy.join("why502.service")).unwrap();
        let start = unit
            .lines()
            .find_map(|line| line.strip_prefix("ExecStart="))
            .unwrap();
        let offered = fs::read_to_string(deploy.join("why502.toml")).unwrap();
        // What a person may take the comment sign from.
        let settings: String = offered
            .lines()
            .filter_map(|line| line.strip_prefix('#'))
            .filter(|line| !line.starts_with(' '))
            .map(|line| format!("{line}\n"))
            .collect();
        assert!(settings.lines().count() >= 4, "{settings}");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("why502.toml");
        for text in [offered, settings] {
            fs::write(&file, text).unwrap();
            let here = file.display().to_string();
            let words = start
                .split(' ')
                .map(|word| word.replace("/etc/why502/why502.toml", &here));
            let loaded = Settings::load(words.map(OsString::from));
            assert!(loaded.is_ok(), "{}", loaded.unwrap_err());
        }
    }
}
