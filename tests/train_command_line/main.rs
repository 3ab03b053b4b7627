//! What `infonce train` promises on the command line: exit codes, one clear line for each mistake,
//! nothing half-written, and a run folder whose files can all be read.
#![cfg(feature = "train")]

mod every_setting_ends_in_a_result_or_one_line;
mod every_source_trains;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use infonce::train::metrics::{EvaluationRecord, Record};

/// Files of a run that finished.
const FILES: [&str; 6] = [
    "checkpoint.safetensors",
    "config.toml",
    "embedding.png",
    "loss.png",
    "metrics.jsonl",
    "report.html",
];

/// A word of a command line.
trait Word: AsRef<OsStr> + Debug {}
impl<T: AsRef<OsStr> + Debug> Word for T {}

/// `method` on the images of `data`, with `options` between spaces.
fn arguments(method: &str, data: &str, options: &str) -> Vec<String> {
    let words = [method, "--data", data].into_iter();
    words.chain(options.split(' ')).map(str::to_owned).collect()
}

/// `method` on the digits in `assets`.
fn digits(method: &str, options: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/optdigits");
    arguments(method, &format!("idx:{}", folder.display()), options)
}

/// `infonce train`, started in `folder`.
fn train(folder: &Path, arguments: &[impl Word]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_infonce"));
    command.arg("train").args(arguments).current_dir(folder);
    command
}

/// Asserts the exit code and that nothing panicked; returns stdout and stderr.
#[track_caller]
fn ends(folder: &Path, arguments: &[impl Word], code: i32) -> (String, String) {
    let output = train(folder, arguments).output().unwrap();
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
    assert!(!stderr.contains("panicked"), "{arguments:?}: {stderr}");
    (stdout, stderr)
}

#[track_caller]
fn trained(folder: &Path, arguments: &[impl Word]) -> (String, String) {
    ends(folder, arguments, 0)
}

#[track_caller]
fn contains(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text}");
    }
}

/// The words of a message, given with ` … ` between them.
fn between_gaps(words: &str) -> Vec<&str> {
    words.split(" … ").collect()
}

fn entries(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Asserts exit code 2, an error with all of `words`, and that no file is left behind.
#[track_caller]
fn refused(folder: &Path, arguments: &[impl Word], words: &[&str]) -> String {
    let before = entries(folder);
    let (_, message) = ends(folder, arguments, 2);
    assert!(message.starts_with("error: "), "{arguments:?}: {message}");
    contains(&message, words);
    assert_eq!(entries(folder), before, "{arguments:?} left files behind");
    message
}

/// As [`refused`], and the message is one line; the parser's own messages have hints below.
#[track_caller]
fn refused_in_one_line(folder: &Path, arguments: &[impl Word], words: &[&str]) {
    let message = refused(folder, arguments, words);
    assert_eq!(message.trim_end().lines().count(), 1, "{message}");
}

/// A file as NumPy writes it.
fn write_npy(path: &Path, descr: &str, shape: &str, elements: &[u8]) {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let length = (header.len() as u16).to_le_bytes();
    let bytes = [
        b"\x93NUMPY\x01\x00" as &[u8],
        &length,
        header.as_bytes(),
        elements,
    ]
    .concat();
    fs::write(path, bytes).unwrap();
}

/// `images.npy` with `count` grey images of 8x8, and `labels.npy` with their labels, which go round
/// `classes`. Images of one label resemble each other.
fn write_arrays(folder: &Path, count: usize, classes: usize) {
    let pixels: Vec<u8> = (0..count * 64)
        .map(|i| {
            let (image, pixel) = (i / 64, i % 64);
            (37 * (image % classes) * (pixel + 1) + 11 * image * pixel) as u8
        })
        .collect();
    let shape = format!("({count}, 8, 8)");
    write_npy(&folder.join("images.npy"), "|u1", &shape, &pixels);
    let labels: Vec<u8> = (0..count).map(|image| (image % classes) as u8).collect();
    write_npy(
        &folder.join("labels.npy"),
        "|u1",
        &format!("({count},)"),
        &labels,
    );
}

#[track_caller]
fn has_pictures(run: &Path) {
    for picture in ["loss.png", "embedding.png"] {
        let decoded = image::open(run.join(picture)).unwrap().to_rgb8();
        let drawn = decoded.pixels().any(|pixel| pixel.0 != [255; 3]);
        assert!(drawn, "{picture} is blank");
    }
}

fn records(run: &Path) -> Vec<Record> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    assert!(text.ends_with('\n'), "the last line is not whole");
    assert!(text.starts_with("{\"kind\":\"step\",\"step\":1,"), "{text}");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The tensors of a checkpoint by name; the file's metadata has no fixed order.
fn tensors(checkpoint: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let read = safetensors::SafeTensors::deserialize(checkpoint).unwrap();
    let tensors = read.tensors().into_iter();
    tensors
        .map(|(name, tensor)| (name, tensor.data().to_vec()))
        .collect()
}

fn evaluation(run: &Path) -> EvaluationRecord {
    match records(run).pop() {
        Some(Record::Evaluation(record)) => record,
        other => panic!("the last record is {other:?}"),
    }
}

#[test]
fn options_that_do_not_exist_or_do_not_parse_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    for (arguments, words) in [
        ("simclr --epoch-count 3", "--epoch-count"),
        ("none", "none … simclr … moco … mocov3 … instdisc … pcl"),
        ("simclr --epochs many", "--epochs … many"),
        ("simclr --data mnist", "mnist … idx:DIR … folder:DIR"),
    ] {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        refused(directory.path(), &arguments, &between_gaps(words));
    }
}

#[test]
fn values_out_of_range_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    for (method, options, words) in [
        ("simclr", "--temperature 0", "temperature … 0"),
        ("simclr", "--temperature -0.5", "temperature … -0.5"),
        ("simclr", "--temperature nan", "temperature"),
        ("simclr", "--epochs 0", "epochs"),
        ("simclr", "--batch 0", "batch"),
        ("simclr", "--batch 100000", "batch … 100000 … 1347"),
        ("simclr", "--dim 0", "dim"),
        ("simclr", "--lr inf", "learning_rate"),
        ("simclr", "--queue 64", "--queue … moco, pcl; simclr"),
        ("mocov3", "--queue 64", "--queue … moco, pcl; mocov3"),
        (
            "simclr",
            "--momentum 0.9",
            "--momentum … moco, mocov3, pcl; simclr",
        ),
        ("instdisc", "--momentum 0.9", "--momentum … instdisc"),
        ("mocov3", "--momentum 1.5", "momentum"),
        ("moco", "--momentum 1.5", "momentum"),
        ("moco", "--queue 0", "queue"),
    ] {
        let arguments = digits(method, options);
        refused_in_one_line(directory.path(), &arguments, &between_gaps(words));
    }
}

#[test]
fn data_that_is_not_there_or_not_whole_is_refused_with_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path();
    for source in ["idx:nowhere", "cifar10:nowhere", "folder:nowhere"] {
        refused_in_one_line(folder, &["simclr", "--data", source], &["nowhere"]);
    }
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/optdigits");
    for entry in fs::read_dir(assets).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
    }
    let images = folder.join("train-images-idx3-ubyte");
    let whole = fs::read(&images).unwrap();
    fs::write(&images, &whole[..whole.len() - 100]).unwrap();
    let words = ["train-images-idx3-ubyte", "bytes"];
    refused_in_one_line(folder, &["simclr", "--data", "idx:."], &words);
    for class in ["cat", "dog"] {
        let class = folder.join("images").join(class);
        fs::create_dir_all(&class).unwrap();
        for name in ["a.png", "b.png", "c.png", "d.png"] {
            fs::write(class.join(name), "no image").unwrap();
        }
    }
    refused_in_one_line(folder, &["simclr", "--data", "folder:images"], &[".png"]);
}

#[test]
fn a_run_folder_that_cannot_be_used_is_refused_before_training() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), "").unwrap();
    fs::create_dir(directory.path().join("taken")).unwrap();
    fs::write(directory.path().join("taken/config.toml"), "seed = 1").unwrap();
    for (out, word) in [
        ("file/run", "file/run"),
        ("file", "file"),
        ("taken", "not empty"),
    ] {
        let arguments = digits("simclr", &format!("--out {out}"));
        refused_in_one_line(directory.path(), &arguments, &["run folder", word]);
    }
    let kept = fs::read(directory.path().join("taken/config.toml")).unwrap();
    assert_eq!(kept, b"seed = 1");
}

#[test]
fn a_configuration_file_that_does_not_fit_is_refused_by_key() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = digits("simclr", "--config run.toml");
    for (text, words) in [
        ("colour = 1", &["colour"] as &[&str]),
        ("[augment.crop]\nscales = [0.1, 1.0]", &["scale"]),
        ("[train]\nepochs = \"many\"", &["epochs", "many"]),
        ("[train]\nbatches = 3", &["batches"]),
        ("[train", &["TOML"]),
        ("[train]\nmethod = \"moco\"", &["moco", "simclr"]),
    ] {
        fs::write(directory.path().join("run.toml"), text).unwrap();
        let all = [&["run.toml"], words].concat();
        refused_in_one_line(directory.path(), &arguments, &all);
    }
    let missing = ["simclr", "--config", "no.toml"];
    refused_in_one_line(directory.path(), &missing, &["no.toml"]);
}

#[test]
fn a_run_leaves_files_that_all_read_back_and_its_configuration_repeats_it() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = digits("simclr", "--epochs 1 --batch 64 --seed 5 --out a");
    let (table, progress) = trained(directory.path(), &arguments);
    contains(&progress, &["epoch 1/1", "images/s"]);
    contains(
        &table,
        &["linear probe", "raw pixels", "untrained", "uniformity"],
    );
    contains(&table, &["report.html"]);

    let run = directory.path().join("a");
    assert_eq!(entries(&run), FILES);
    has_pictures(&run);
    let page = fs::read_to_string(run.join("report.html")).unwrap();
    assert!(page.contains("SimCLR") && page.trim_end().ends_with("</html>"));
    let checkpoint = fs::read(run.join("checkpoint.safetensors")).unwrap();
    assert!(!tensors(&checkpoint).is_empty());

    let records = records(&run);
    let steps: Vec<_> = records
        .iter()
        .filter_map(|record| match record {
            Record::Step(step) => Some(step),
            _ => None,
        })
        .collect();
    let measured = steps.iter().filter(|step| step.top1.is_some());
    let measured: Vec<u64> = measured.map(|step| step.step).collect();
    assert_eq!(measured, [1, 9, 17, 21]);
    let steps = steps.len();
    assert_eq!(steps, 1347 / 64);
    assert!(matches!(&records[steps], Record::Epoch(epoch) if epoch.step == steps as u64));
    let found = evaluation(&run);
    let accuracies = found.evaluation.accuracies.unwrap();
    assert_eq!((accuracies.k, found.evaluation.test_images), (20, 450));
    assert!(accuracies.pixels_knn > 0.9);
    assert_eq!(found.improvement, Some(accuracies.improvement()));

    let again = ["simclr", "--config", "a/config.toml", "--out", "b"];
    trained(directory.path(), &again);
    let file = |run: &str, name: &str| fs::read(directory.path().join(run).join(name)).unwrap();
    assert_eq!(file("a", "config.toml"), file("b", "config.toml"));
    let [one, other] = ["a", "b"].map(|run| tensors(&file(run, "checkpoint.safetensors")));
    assert!(one == other, "the same run learned something else");
    let repeated = evaluation(&directory.path().join("b"));
    assert_eq!(found.evaluation, repeated.evaluation);
}

#[test]
fn an_engine_that_is_not_here_is_refused_before_anything_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path();
    let engines = ["tpu", "auto", "cpu", "cuda"];
    refused(folder, &digits("simclr", "--engine tpu"), &engines);
    let Some(reason) = no_cuda() else { return };
    refused_in_one_line(folder, &digits("simclr", "--engine cuda"), &[&reason]);

    let from_file = digits("simclr", "--config run.toml");
    fs::write(folder.join("run.toml"), "engine = \"cuda\"").unwrap();
    refused_in_one_line(folder, &from_file, &[&reason]);
    fs::write(folder.join("run.toml"), "engine = \"tpu\"").unwrap();
    refused_in_one_line(folder, &from_file, &["run.toml", "engine", "tpu"]);
}

#[test]
fn a_run_says_which_engine_it_took_and_why() {
    let directory = tempfile::tempdir().unwrap();
    let takes_cpu = |engine: &str, reason: &str| {
        let options = format!("--epochs 1 --out {engine} --engine {engine}");
        let (_, said) = trained(directory.path(), &digits("simclr", &options));
        contains(&said, &[&format!("engine cpu: {reason}")]);
        let config = directory.path().join(engine).join("config.toml");
        contains(&fs::read_to_string(config).unwrap(), &["engine = \"cpu\""]);
    };
    takes_cpu("cpu", "");
    let Some(reason) = no_cuda() else { return };
    takes_cpu("auto", &reason);
}

/// How the reason starts for which training on a CUDA device is not possible here.
fn no_cuda() -> Option<String> {
    #[cfg(not(feature = "cuda"))]
    return Some("this build lacks the feature `cuda`".to_owned());
    #[cfg(feature = "cuda")]
    match infonce::train::cuda::Cuda::new() {
        Ok(_) => None,
        Err(infonce::Error::Unavailable { reason, .. }) => Some(reason),
        Err(error) => Some(error.to_string()),
    }
}

#[test]
fn moco_runs_from_the_same_command_with_its_own_options() {
    let directory = tempfile::tempdir().unwrap();
    let options = "--epochs 1 --batch 64 --queue 200 --momentum 0.95 --require-improvement=-100";
    trained(directory.path(), &digits("moco", options));
    let runs = entries(&directory.path().join("runs"));
    assert_eq!(runs.len(), 1, "{runs:?}");
    let run = directory.path().join("runs").join(&runs[0]);
    assert_eq!(entries(&run), FILES);
    let config = fs::read_to_string(run.join("config.toml")).unwrap();
    contains(&config, &["queue = 200"]);
}

#[test]
fn an_improvement_that_is_not_reached_is_exit_code_4_after_the_report() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = digits("simclr", "--epochs 1 --out run --require-improvement 90");
    let (_, message) = ends(directory.path(), &arguments, 4);
    contains(&message, &["90"]);
    assert_eq!(entries(&directory.path().join("run")), FILES);
}

#[test]
fn a_loss_that_is_not_finite_is_exit_code_3_and_names_the_step() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = digits("simclr", "--epochs 3 --lr 1e30 --out run");
    let (_, message) = ends(directory.path(), &arguments, 3);
    contains(&message, &["at step", "learning_rate"]);
    records(&directory.path().join("run"));
}

#[cfg(unix)]
#[test]
fn ctrl_c_is_exit_code_130_after_a_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let run = directory.path().join("run");
    interrupted(directory.path(), "--epochs 10000 --out run", &run);
    let checkpoint = fs::read(run.join("checkpoint.safetensors")).unwrap();
    assert!(!tensors(&checkpoint).is_empty());
    records(&run);
    assert!(entries(&run).iter().all(|name| !name.ends_with(".partial")));

    // The run goes on with the step after the last.
    let step = |line: Option<&str>| match serde_json::from_str(line.unwrap()).unwrap() {
        Record::Step(step) => step.step,
        Record::Epoch(epoch) => epoch.step,
        other => panic!("{other:?}"),
    };
    let next = directory.path().join("next");
    let options = "--config run/config.toml --resume run/checkpoint.safetensors --out next";
    interrupted(directory.path(), options, &next);
    let [before, after] = [&run, &next].map(|run| fs::read_to_string(run.join("metrics.jsonl")));
    let (before, after) = (before.unwrap(), after.unwrap());
    assert_eq!(step(after.lines().next()), step(before.lines().last()) + 1);
}

/// Starts SimCLR on the digits and interrupts it after its first steps.
#[cfg(unix)]
#[track_caller]
fn interrupted(folder: &Path, options: &str, run: &Path) {
    let child = train(folder, &digits("simclr", options))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for_steps(run);
    let kill = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(kill.success());

    let output = child.wait_with_output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{message}");
    let last = message.lines().last().unwrap();
    assert!(last.contains("checkpoint.safetensors"), "{message}");
}

/// Waits until training has written its first step.
fn wait_for_steps(run: &Path) {
    let metrics: PathBuf = run.join("metrics.jsonl");
    let deadline = Instant::now() + Duration::from_secs(120);
    while fs::metadata(&metrics).map_or(0, |file| file.len()) == 0 {
        assert!(Instant::now() < deadline, "no step within two minutes");
        std::thread::sleep(Duration::from_millis(50));
    }
}
