//! Numbers at the ends of their ranges, the smallest data sets, and configuration files that are
//! damaged or foreign.

use super::*;

/// Forty images of four classes, two epochs.
const SMALL: [&str; 6] = [
    "--data",
    "npy:images.npy,labels.npy",
    "--batch",
    "16",
    "--epochs",
    "2",
];

fn small_images() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    write_arrays(directory.path(), 40, 4);
    directory
}

/// Trains to the end and finds finite numbers.
fn ends_in_a_result(folder: &Path, arguments: &[&str]) {
    trained(folder, &[arguments, &["--out", "run"]].concat());
    let run = folder.join("run");
    assert_eq!(entries(&run), FILES, "{arguments:?}");
    let losses = records(&run).into_iter().filter_map(|record| match record {
        Record::Step(step) => Some(step.loss),
        _ => None,
    });
    let losses: Vec<f64> = losses.collect();
    assert!(!losses.is_empty(), "{arguments:?}");
    assert!(losses.iter().all(|loss| loss.is_finite()), "{losses:?}");
    fs::remove_dir_all(run).unwrap();
}

#[test]
fn numbers_at_the_ends_of_their_ranges_train() {
    let directory = small_images();
    for (method, arguments) in [
        ("simclr", ["--temperature", "1e30"]),
        ("simclr", ["--lr", "1e-300"]),
        ("simclr", ["--dim", "1"]),
        ("simclr", ["--dim", "4096"]),
        ("simclr", ["--seed", "9223372036854775807"]),
        ("moco", ["--momentum", "0"]),
        ("moco", ["--momentum", "1"]),
        ("moco", ["--queue", "1"]),
        // Smaller than the batch of 16.
        ("moco", ["--queue", "15"]),
    ] {
        let all = [&[method] as &[&str], &SMALL, &arguments].concat();
        ends_in_a_result(directory.path(), &all);
    }
}

#[test]
fn losses_of_the_table_train_and_are_named_in_the_report() {
    let directory = small_images();
    for (method, key, name) in [("simclr", "dcl", "DCL"), ("moco", "moco_v3", "MoCo v3")] {
        let options = ["--loss", key, "--out", key];
        let all = [&[method] as &[&str], &SMALL, &options].concat();
        trained(directory.path(), &all);
        let run = directory.path().join(key);
        let file = |name: &str| fs::read_to_string(run.join(name)).unwrap();
        assert!(file("config.toml").contains(&format!("loss = \"{key}\"")));
        assert!(file("report.html").contains(&format!("loss {name}")));
        let losses = records(&run).into_iter().filter_map(|record| match record {
            Record::Epoch(epoch) => Some(epoch.loss),
            _ => None,
        });
        let losses: Vec<f64> = losses.collect();
        assert!(losses.len() == 2 && losses[1] < losses[0], "{losses:?}");
    }
}

#[test]
fn a_loss_that_does_not_fit_the_method_is_refused_by_name() {
    let directory = small_images();
    for (arguments, words) in [
        (
            ["simclr", "--loss", "clip"],
            ["`loss` is clip", "simclr takes nt_xent, dcl"],
        ),
        (
            ["moco", "--loss", "nt_xent"],
            ["`loss` is nt_xent", "moco takes moco, moco_v3"],
        ),
        (
            ["simclr", "--loss", "none"],
            ["`loss` is none", "rince, debiased"],
        ),
    ] {
        let all = [&arguments as &[&str], &SMALL].concat();
        refused_in_one_line(directory.path(), &all, &words);
    }
    let queue = ["moco", "--loss", "moco_v3", "--queue", "64"];
    let all = [&queue as &[&str], &SMALL].concat();
    refused_in_one_line(directory.path(), &all, &["--queue", "moco_v3"]);
}

/// As runs of releases without the option left it.
#[test]
fn a_configuration_without_a_loss_means_the_default() {
    let directory = small_images();
    let file = |path: &str| fs::read_to_string(directory.path().join(path)).unwrap();
    for (method, loss) in [("simclr", "nt_xent"), ("moco", "moco")] {
        let (first, again) = (format!("{method}-a"), format!("{method}-b"));
        let all = [&[method] as &[&str], &SMALL, &["--out", &first]].concat();
        trained(directory.path(), &all);
        let whole = file(&format!("{first}/config.toml"));
        let line = format!("loss = \"{loss}\"\n");
        assert!(whole.contains(&line), "{whole}");
        let older = whole.replace(&line, "");
        fs::write(directory.path().join("older.toml"), older).unwrap();
        let again_from_file = [method, "--config", "older.toml", "--out", &again];
        trained(directory.path(), &again_from_file);
        assert_eq!(file(&format!("{again}/config.toml")), whole);
    }
}

/// A loss by chance is log(1 + K) once the queue holds K keys. Before it holds any, the batch's other
/// keys are the negatives: with none, every accuracy would be 100%.
#[test]
fn a_queue_that_fills_counts_the_candidates_there_are() {
    let directory = small_images();
    for (queue, candidates) in [
        ("48", [16.0, 17.0, 33.0, 49.0, 49.0, 49.0]),
        ("1", [16.0, 2.0, 2.0, 2.0, 2.0, 2.0]),
    ] {
        let data = [
            "moco",
            "--data",
            "npy:images.npy",
            "--batch",
            "16",
            "--epochs",
            "3",
        ];
        let options = ["--queue", queue, "--out", queue];
        trained(directory.path(), &[&data as &[&str], &options].concat());
        let records = records(&directory.path().join(queue)).into_iter();
        let found: Vec<f64> = records
            .filter_map(|record| match record {
                Record::Step(step) => Some(step.chance_loss.exp().round()),
                _ => None,
            })
            .collect();
        assert_eq!(found, candidates);
    }
}

#[test]
fn numbers_past_the_ends_of_their_ranges_are_refused() {
    let directory = small_images();
    let largest = "9223372036854775807";
    for (method, option, value, words) in [
        (
            "simclr",
            "--temperature",
            "1e-31",
            ["`temperature` is 1e-31", "1e30"],
        ),
        (
            "simclr",
            "--temperature",
            "1e300",
            ["`temperature` is 1e300", "1e30"],
        ),
        (
            "simclr",
            "--lr",
            "0",
            ["`learning_rate` is 0", "greater than 0"],
        ),
        (
            "simclr",
            "--batch",
            largest,
            [largest, "32 training images"],
        ),
        ("simclr", "--batch", "1", ["`batch` is 1", "at least 2"]),
        ("simclr", "--dim", largest, ["`dim` is", "4096"]),
        ("moco", "--queue", largest, ["`queue` is", "16777216"]),
        ("moco", "--queue", "0", ["`queue` is 0", "between 1"]),
        (
            "moco",
            "--momentum",
            "1.0000001",
            ["`momentum` is", "between 0 and 1"],
        ),
        (
            "simclr",
            "--require-improvement",
            "nan",
            ["`--require-improvement` is NaN", "finite"],
        ),
    ] {
        // The last of two equal options would be an error of its own.
        let known = SMALL.chunks(2).filter(|pair| pair[0] != option);
        let known: Vec<&str> = known.flatten().copied().collect();
        let all = [&[method] as &[&str], &known, &[option, value]].concat();
        refused_in_one_line(directory.path(), &all, &words);
    }
    let memory = ["--queue", "16777216", "--dim", "4096"];
    let all = [&["moco"] as &[&str], &SMALL, &memory].concat();
    refused_in_one_line(directory.path(), &all, &["`queue` is 16777216", "GiB"]);
}

#[test]
fn a_temperature_that_overflows_is_named_and_not_the_rate() {
    let directory = small_images();
    for (temperature, logits) in [("1e-9", "±1e9"), ("1e-30", "±1e30")] {
        let options = ["--temperature", temperature, "--out", temperature];
        let output = output(
            directory.path(),
            &[&["simclr"] as &[&str], &SMALL, &options].concat(),
        );
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{message}");
        let last = message.trim_end().lines().last().unwrap();
        assert!(last.starts_with("error: "), "{message}");
        assert!(
            last.contains(&format!("temperature {temperature}")),
            "{last}"
        );
        assert!(last.contains(logits), "{last}");
        assert!(!last.contains("learning_rate"), "{last}");
    }
}

#[test]
fn a_weight_decay_that_overflows_is_named() {
    let directory = small_images();
    let config = "[train]\nweight_decay = 1e20\n";
    fs::write(directory.path().join("run.toml"), config).unwrap();
    let options = ["--config", "run.toml", "--out", "run"];
    let output = output(
        directory.path(),
        &[&["simclr"] as &[&str], &SMALL, &options].concat(),
    );
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{message}");
    assert!(message.contains("weight_decay 1e20"), "{message}");
}

#[test]
fn the_smallest_data_sets_train_or_are_refused_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path();
    let common = ["simclr", "--epochs", "1", "--batch", "2"];
    // One class: as without labels.
    write_arrays(folder, 12, 1);
    let labelled = [&common as &[&str], &["--data", "npy:images.npy,labels.npy"]].concat();
    let (table, progress) = trained(folder, &[&labelled as &[&str], &["--out", "one"]].concat());
    assert!(
        progress.contains("all images are of one class"),
        "{progress}"
    );
    assert!(table.contains("no labels"), "{table}");
    // One image a class.
    write_arrays(folder, 12, 12);
    refused_in_one_line(folder, &labelled, &["12 images", "images.npy", "held out"]);
    // One held-out image.
    write_arrays(folder, 3, 1);
    let unlabelled = [&common as &[&str], &["--data", "npy:images.npy"]].concat();
    let (table, _) = trained(
        folder,
        &[&unlabelled as &[&str], &["--out", "three"]].concat(),
    );
    assert!(table.contains("collapse unknown"), "{table}");
    // One training image, and one image in all.
    write_arrays(folder, 2, 1);
    refused_in_one_line(folder, &unlabelled, &["`batch` is 2", "1 training images"]);
    write_arrays(folder, 1, 1);
    refused_in_one_line(folder, &unlabelled, &["images.npy", "held out"]);
}

#[test]
fn damaged_and_foreign_configurations_are_one_line() {
    let directory = small_images();
    let path = directory.path().join("run.toml");
    for (text, words) in [
        (&b"seed = \xff"[..], &["TOML", "utf-8"] as &[&str]),
        (b"train = 3", &["train", "3"]),
        (b"[[train]]\nepochs = 1", &["train", "sequence"]),
        (b"[train]\nseed = -1", &["train.seed", "-1"]),
        (b"[train]\nepochs = 1e3", &["train.epochs"]),
        (b"[train]\nseed = 99999999999999999999", &["line 2"]),
        (b"[train]\nwidths = [4096, 99999]", &["widths", "4096"]),
        (b"[train]\nwidths = []", &["widths"]),
        (b"skip_unreadable = \"yes\"", &["skip_unreadable", "yes"]),
        (b"[build]\ntarget = \"wasm\"", &["build", "known here"]),
        (b"[dependencies]\nserde = \"1\"", &["dependencies"]),
    ] {
        fs::write(&path, text).unwrap();
        let all = [&["simclr"] as &[&str], &SMALL, &["--config", "run.toml"]].concat();
        refused_in_one_line(directory.path(), &all, words);
    }
    // A folder in place of a file.
    let all = [&["simclr"] as &[&str], &SMALL, &["--config", "."]].concat();
    refused_in_one_line(directory.path(), &all, &["could not read ."]);
}

#[test]
fn a_configuration_cut_off_anywhere_is_one_line() {
    let directory = small_images();
    let all = [&["moco"] as &[&str], &SMALL, &["--out", "run"]].concat();
    trained(directory.path(), &all);
    let whole = fs::read(directory.path().join("run/config.toml")).unwrap();
    for length in (0..whole.len()).step_by(11) {
        fs::write(directory.path().join("cut.toml"), &whole[..length]).unwrap();
        // Where the rest is a whole configuration, this is still refused.
        let arguments = [
            "moco",
            "--config",
            "cut.toml",
            "--data",
            "npy:images.npy",
            "--epochs",
            "0",
        ];
        let output = output(directory.path(), &arguments);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{length}: {message}");
        assert!(message.starts_with("error: "), "{length}: {message}");
        assert_eq!(message.trim_end().lines().count(), 1, "{length}: {message}");
    }
}
