//! What this host's kernel offers to probes, as JSON: how recordings for the tests are made.

use std::process::ExitCode;

use why502::sources::kernel::{btf::Btf, layout, offer::Offer};

fn main() -> ExitCode {
    let btf = match Btf::of_kernel() {
        Ok(btf) => btf,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let (_, missing) = layout::read(&btf);
    match serde_json::to_string_pretty(&Offer::of_host(&btf, &missing)) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
