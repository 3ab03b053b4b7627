//! Numbers at the ends of their ranges, the smallest data sets, and configuration files that are
//! damaged or foreign.

use super::*;

/// `method` on forty images of four classes, two epochs.
fn small(method: &str, options: &str) -> Vec<String> {
    let options = format!("--batch 16 --epochs 2 {options}");
    arguments(method, "npy:images.npy,labels.npy", &options)
}

fn small_images() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    write_arrays(directory.path(), 40, 4);
    directory
}

/// Trains to the end and finds finite numbers.
fn ends_in_a_result(folder: &Path, method: &str, options: &str) {
    let arguments = small(method, &format!("{options} --out run"));
    trained(folder, &arguments);
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
    for (method, options) in [
        ("simclr", "--temperature 1e30"),
        ("simclr", "--lr 1e-300"),
        ("simclr", "--dim 1"),
        ("simclr", "--dim 4096"),
        ("simclr", "--seed 9223372036854775807"),
        ("moco", "--momentum 0"),
        ("mocov3", "--momentum 1"),
        ("instdisc", "--dim 1"),
        ("pcl", "--queue 1"),
        ("moco", "--queue 1"),
        // Smaller than the batch of 16.
        ("moco", "--queue 15"),
    ] {
        ends_in_a_result(directory.path(), method, options);
    }
}

#[test]
fn losses_of_the_table_train_and_are_named_in_the_report() {
    let directory = small_images();
    for (method, key, name) in [
        ("simclr", "dcl", "DCL"),
        ("simclr", "supcon", "SupCon"),
        ("simclr", "kcl", "KCL"),
        ("simclr", "hard", "hard negatives"),
        ("simclr", "info_nce", "InfoNCE"),
        ("simclr", "clip", "CLIP"),
        ("mocov3", "moco_v3", "MoCo v3"),
    ] {
        let options = format!("--loss {key} --out {key}");
        trained(directory.path(), &small(method, &options));
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
    for (method, loss, words) in [
        (
            "moco",
            "clip",
            "`loss` is clip: it has no queue … moco takes moco",
        ),
        ("moco", "nt_xent", "`loss` is nt_xent … moco takes moco"),
        (
            "simclr",
            "moco_v3",
            "`loss` is moco_v3: its keys … momentum encoder; simclr takes nt_xent, info_nce",
        ),
        ("simclr", "sampled_softmax", "frequency of each candidate"),
        ("simclr", "contrad", "generated images"),
        ("mocov3", "moco", "`loss` is moco … mocov3 takes moco_v3"),
        (
            "instdisc",
            "pcl",
            "`loss` is pcl … instdisc takes inst_disc",
        ),
        ("pcl", "moco", "`loss` is moco … pcl takes pcl"),
        ("simclr", "none", "`loss` is none … rince, debiased"),
    ] {
        let arguments = small(method, &format!("--loss {loss}"));
        refused_in_one_line(directory.path(), &arguments, &between_gaps(words));
    }
    for loss in ["supcon", "supcon_in", "kcl"] {
        let options = format!("--batch 16 --loss {loss}");
        let unlabelled = arguments("simclr", "npy:images.npy", &options);
        let words = [&format!("`loss` is {loss}"), "no labels"];
        refused_in_one_line(directory.path(), &unlabelled, &words);
    }
}

#[test]
fn help_lists_the_methods_and_their_losses_from_the_table() {
    let help = ["--help"];
    let (help, _) = ends(Path::new("."), &help, 0);
    for method in infonce::train::methods::TABLE {
        contains(&help, &[method.key, method.help, method.source]);
        contains(
            &help,
            &[&format!("for {} {}", method.key, method.loss_keys())],
        );
    }
}

/// Weights that decay to nothing make every embedding the same.
#[test]
fn a_run_that_collapses_says_so_with_every_method() {
    let directory = small_images();
    let config = "[train]\nweight_decay = 4.0\nepochs = 8\n";
    fs::write(directory.path().join("run.toml"), config).unwrap();
    for method in infonce::train::methods::TABLE {
        let run = format!("--batch 16 --config run.toml --out {}", method.key);
        let arguments = arguments(method.key, "npy:images.npy,labels.npy", &run);
        let (table, _) = trained(directory.path(), &arguments);
        contains(
            &table,
            &["collapsed: embeddings of different inputs are nearly one point"],
        );
        let page = directory.path().join(method.key).join("report.html");
        contains(&fs::read_to_string(page).unwrap(), &["collapsed: "]);
    }
}

/// The command goes on where a run was stopped, and refuses what is no checkpoint of it.
#[test]
fn a_run_resumes_from_its_checkpoint_and_from_no_other() {
    let directory = small_images();
    let folder = directory.path();
    trained(folder, &small("pcl", "--out whole"));
    let ended = small("pcl", "--resume whole/checkpoint.safetensors");
    refused_in_one_line(folder, &ended, &["cannot resume", "has ended"]);
    let other = small("pcl", "--seed 3 --resume whole/checkpoint.safetensors");
    refused_in_one_line(folder, &other, &["cannot resume", "`seed` 0, not 3"]);
    let missing = small("pcl", "--resume none.safetensors");
    refused_in_one_line(folder, &missing, &["none.safetensors"]);
    let foreign = small("pcl", "--resume images.npy");
    refused_in_one_line(folder, &foreign, &["images.npy", "not usable"]);
}

/// As runs of releases without the option left it.
#[test]
fn a_configuration_without_a_loss_means_the_default() {
    let directory = small_images();
    let file = |path: &str| fs::read_to_string(directory.path().join(path)).unwrap();
    for (method, loss) in [("simclr", "nt_xent"), ("pcl", "pcl")] {
        let (first, again) = (format!("{method}-a"), format!("{method}-b"));
        trained(directory.path(), &small(method, &format!("--out {first}")));
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
        let options = format!("--batch 16 --epochs 3 --queue {queue} --out {queue}");
        trained(
            directory.path(),
            &arguments("moco", "npy:images.npy", &options),
        );
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
    let largest = i64::MAX;
    let [batch, dim, queue] = ["batch", "dim", "queue"].map(|of| format!("--{of} {largest}"));
    for (method, options, words) in [
        (
            "simclr",
            "--temperature 1e-31",
            "`temperature` is 1e-31 … 1e30",
        ),
        (
            "simclr",
            "--temperature 1e300",
            "`temperature` is 1e300 … 1e30",
        ),
        ("simclr", "--lr 0", "`learning_rate` is 0 … greater than 0"),
        ("simclr", &batch, "9223372036854775807 … 32 training images"),
        ("simclr", "--batch 1", "`batch` is 1 … at least 2"),
        ("simclr", &dim, "`dim` is … 4096"),
        ("moco", &queue, "`queue` is … 16777216"),
        ("moco", "--queue 0", "`queue` is 0 … between 1"),
        (
            "moco",
            "--queue 16777216 --dim 4096",
            "`queue` is 16777216 … GiB",
        ),
        (
            "moco",
            "--momentum 1.0000001",
            "`momentum` is … between 0 and 1",
        ),
        (
            "simclr",
            "--require-improvement nan",
            "`--require-improvement` is NaN … finite",
        ),
    ] {
        let all = arguments(method, "npy:images.npy,labels.npy", options);
        refused_in_one_line(directory.path(), &all, &between_gaps(words));
    }
}

#[test]
fn a_temperature_that_overflows_is_named_and_not_the_rate() {
    let directory = small_images();
    for (temperature, logits) in [("1e-9", "±1e9"), ("1e-30", "±1e30")] {
        let options = format!("--temperature {temperature} --out {temperature}");
        let (_, message) = ends(directory.path(), &small("simclr", &options), 3);
        let last = message.trim_end().lines().last().unwrap();
        assert!(last.starts_with("error: "), "{message}");
        contains(last, &[&format!("temperature {temperature}"), logits]);
        assert!(!last.contains("learning_rate"), "{last}");
    }
}

#[test]
fn a_weight_decay_that_overflows_is_named() {
    let directory = small_images();
    let config = "[train]\nweight_decay = 1e20\n";
    fs::write(directory.path().join("run.toml"), config).unwrap();
    let arguments = small("simclr", "--config run.toml --out run");
    let (_, message) = ends(directory.path(), &arguments, 3);
    contains(&message, &["weight_decay 1e20"]);
}

#[test]
fn the_smallest_data_sets_train_or_are_refused_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path();
    let labelled = arguments(
        "simclr",
        "npy:images.npy,labels.npy",
        "--epochs 1 --batch 2 --out a",
    );
    let unlabelled = arguments("simclr", "npy:images.npy", "--epochs 1 --batch 2 --out b");
    // One class: as without labels.
    write_arrays(folder, 12, 1);
    let (table, progress) = trained(folder, &labelled);
    contains(&progress, &["all images are of one class"]);
    contains(&table, &["no labels"]);
    fs::remove_dir_all(folder.join("a")).unwrap();
    // One image a class.
    write_arrays(folder, 12, 12);
    refused_in_one_line(folder, &labelled, &["12 images", "images.npy", "held out"]);
    // One held-out image.
    write_arrays(folder, 3, 1);
    let (table, _) = trained(folder, &unlabelled);
    contains(&table, &["collapse unknown"]);
    fs::remove_dir_all(folder.join("b")).unwrap();
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
    let arguments = small("simclr", "--config run.toml");
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
        refused_in_one_line(directory.path(), &arguments, words);
    }
    let folder = small("simclr", "--config .");
    refused_in_one_line(directory.path(), &folder, &["could not read ."]);
}

#[test]
fn a_configuration_cut_off_anywhere_is_one_line() {
    let directory = small_images();
    trained(directory.path(), &small("moco", "--out run"));
    let whole = fs::read(directory.path().join("run/config.toml")).unwrap();
    // `--epochs 0` is refused even where the rest is a whole configuration.
    let arguments = arguments("moco", "npy:images.npy", "--config cut.toml --epochs 0");
    for length in (0..whole.len()).step_by(11) {
        fs::write(directory.path().join("cut.toml"), &whole[..length]).unwrap();
        refused_in_one_line(directory.path(), &arguments, &[]);
    }
}
