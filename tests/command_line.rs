//! `infonce verify` and `infonce info`, as a shell sees them.

use std::process::{Command, Output};

fn infonce(arguments: &[&str]) -> std::io::Result<Output> {
    Command::new(env!("CARGO_BIN_EXE_infonce"))
        .args(arguments)
        .output()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn info_names_the_engines_here_and_says_why_others_are_not() -> std::io::Result<()> {
    let output = infonce(&["info"])?;
    let stdout = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout.contains("cpu       here: "), "{stdout}");
    assert!(stdout.contains("threads"), "{stdout}");
    for engine in ["emulator ", "cuda     "] {
        let described = |line: &str| {
            line.strip_prefix(engine)
                .is_some_and(|rest| rest.starts_with(" here: ") || rest.starts_with(" not here: "))
        };
        assert!(stdout.lines().any(described), "{engine}: {stdout}");
    }
    Ok(())
}

#[test]
#[cfg(not(feature = "cuda"))]
fn verifying_an_engine_that_is_not_here_is_exit_code_2_and_says_why() -> std::io::Result<()> {
    let output = infonce(&["verify", "--engine", "cuda"])?;
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert_eq!(stderr, "error: this build lacks the feature `cuda`\n");
    assert!(output.stdout.is_empty());
    Ok(())
}

#[test]
fn verify_judges_every_verb_and_type_and_repeats_from_its_seed() -> std::io::Result<()> {
    let verify = |seed| {
        infonce(&[
            "verify", "--seed", seed, "--engine", "cpu", "--cases", "MoCo",
        ])
    };
    let output = verify("7")?;
    let stdout = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    assert!(stdout.contains("seed 7"), "{stdout}");
    assert!(stdout.ends_with("all within tolerance\n"), "{stdout}");
    let verbs = [
        "forward",
        "value_and_grad",
        "backward",
        "top_k",
        "normalize",
        "normalize_backward",
        "momentum_update",
        "enqueue",
    ];
    for verb in verbs {
        for dtype in ["f32", "f16", "bf16"] {
            let starts = |line: &str| line.split_whitespace().take(2).eq([verb, dtype]);
            assert!(stdout.lines().any(starts), "{verb} {dtype}: {stdout}");
        }
    }
    assert_eq!(text(&verify("7")?.stdout), stdout, "the same again");
    let other = text(&verify("8")?.stdout).replace("seed 8", "seed 7");
    assert_ne!(other, stdout, "other inputs");
    Ok(())
}

#[cfg(not(feature = "train"))]
#[test]
fn train_without_the_trainer_says_which_feature_it_takes() -> std::io::Result<()> {
    for arguments in [
        &["train"] as &[&str],
        &["train", "simclr", "--epochs", "3"],
        &["train", "--help"],
    ] {
        let output = infonce(arguments)?;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let message = text(&output.stderr);
        assert!(message.contains("--features train"), "{message}");
        assert_eq!(message.trim_end().lines().count(), 1, "{message}");
    }
    Ok(())
}

#[test]
fn bad_arguments_are_one_message_and_exit_code_2() -> std::io::Result<()> {
    let calls: [(&[&str], &str); 6] = [
        (&["verify", "--sed", "7"], "--sed"),
        (&["verify", "--seed", "seven"], "seven"),
        (&["verify", "--engine", "abacus"], "abacus"),
        (&["verify", "--cases", "MoCow"], "MoCow"),
        (&["prove"], "prove"),
        (&["info", "--all"], "--all"),
    ];
    for (arguments, culprit) in calls {
        let output = infonce(arguments)?;
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.starts_with("error: "), "{stderr}");
        let first_line = stderr.lines().next().unwrap_or_default();
        assert!(first_line.contains(culprit), "{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        assert!(output.stdout.is_empty());
    }
    Ok(())
}
