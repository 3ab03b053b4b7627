//! Every source of images that `--help` names trains a whole run. Where there are no labels, the
//! report leaves out accuracies and says so.

use super::*;

/// A record of CIFAR's: labels, then a red, a green and a blue plane.
fn cifar_records(labels: &[&[u8]]) -> Vec<u8> {
    let record = |(index, labels): (usize, &&[u8])| {
        let planes = (0..3072).map(|place| (place * (index + 3) / 7) as u8);
        labels.iter().copied().chain(planes).collect::<Vec<u8>>()
    };
    labels.iter().enumerate().flat_map(record).collect()
}

/// Writes `count` PNG images of 16x16 into `folder`.
fn write_pngs(folder: &Path, count: u32) {
    fs::create_dir_all(folder).unwrap();
    for index in 0..count {
        let pixel =
            |x: u32, y: u32| image::Rgb([(x * 16) as u8, (y * index) as u8, index as u8 * 20]);
        let image = image::RgbImage::from_fn(16, 16, pixel);
        image.save(folder.join(format!("{index}.png"))).unwrap();
    }
}

#[test]
fn every_method_trains_from_every_source() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path();
    for class in ["cat", "dog/puppies"] {
        write_pngs(&folder.join("classes").join(class), 10);
    }
    write_pngs(&folder.join("flat"), 10);
    fs::create_dir(folder.join("digits")).unwrap();
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/optdigits");
    for entry in fs::read_dir(assets).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.ends_with("ubyte") {
            let file = fs::File::open(&path).unwrap();
            let mut packed = Vec::new();
            let mut encoder = flate2::read::GzEncoder::new(file, flate2::Compression::fast());
            std::io::Read::read_to_end(&mut encoder, &mut packed).unwrap();
            fs::write(folder.join("digits").join(format!("{name}.gz")), packed).unwrap();
        }
    }
    fs::create_dir_all(folder.join("c10/cifar-10-batches-bin")).unwrap();
    for file in [
        "data_batch_1",
        "data_batch_2",
        "data_batch_3",
        "data_batch_4",
        "data_batch_5",
        "test_batch",
    ] {
        let path = folder
            .join("c10/cifar-10-batches-bin")
            .join(format!("{file}.bin"));
        fs::write(path, cifar_records(&[&[3], &[7]])).unwrap();
    }
    fs::create_dir(folder.join("c100")).unwrap();
    let labels: [&[u8]; 4] = [&[1, 8], &[19, 99], &[1, 9], &[19, 98]];
    for (file, labels) in [("train.bin", &labels.repeat(2)[..]), ("test.bin", &labels)] {
        fs::write(folder.join("c100").join(file), cifar_records(labels)).unwrap();
    }
    write_arrays(folder, 20, 2);
    fs::create_dir(folder.join("arrays")).unwrap();
    for name in ["x_train.npy", "x_test.npy"] {
        fs::copy(folder.join("images.npy"), folder.join("arrays").join(name)).unwrap();
    }
    for (source, classes) in [
        ("folder:classes", Some(2)),
        ("folder:flat", None),
        ("idx:digits", Some(10)),
        ("cifar10:c10", Some(10)),
        ("cifar100:c100", Some(100)),
        ("cifar100-coarse:c100", Some(20)),
        ("npy:images.npy,labels.npy", Some(2)),
        ("npy:images.npy", None),
        ("npy:arrays", None),
    ] {
        let batch = if source == "idx:digits" { "256" } else { "8" };
        let options = format!("--epochs 2 --batch {batch} --out run");
        for method in &infonce::train::methods::TABLE[1..] {
            trained(folder, &arguments(method.key, source, &options));
            assert_eq!(entries(&folder.join("run")), FILES, "{source}");
            fs::remove_dir_all(folder.join("run")).unwrap();
        }
        let (table, progress) = trained(folder, &arguments("simclr", source, &options));
        let run = folder.join("run");
        assert_eq!(entries(&run), FILES, "{source}");
        let found = evaluation(&run);
        assert_eq!(
            found.evaluation.accuracies.is_some(),
            classes.is_some(),
            "{source}"
        );
        assert_eq!(found.improvement.is_some(), classes.is_some(), "{source}");
        let said = match classes {
            Some(classes) => format!("in {classes} classes"),
            None => "without labels".to_owned(),
        };
        assert!(progress.contains(&said), "{source}: {progress}");
        assert_eq!(
            table.contains("kNN (k ="),
            classes.is_some(),
            "{source}: {table}"
        );
        fs::remove_dir_all(run).unwrap();
    }
}

#[test]
fn a_run_without_labels_shows_all_but_accuracies() {
    let directory = tempfile::tempdir().unwrap();
    write_arrays(directory.path(), 40, 4);
    let arguments = |options| arguments("simclr", "npy:images.npy", options);
    let options = "--epochs 2 --batch 16 --out run";
    let (table, _) = trained(directory.path(), &arguments(options));
    let left_out = "The images have no labels, so kNN, linear probe and points above the baseline are left out.";
    let page = fs::read_to_string(directory.path().join("run/report.html")).unwrap();
    contains(&page, &[left_out]);
    contains(&table, &[left_out, "alignment", "uniformity"]);
    contains(&table, &["embedding std", "collapse", "training time"]);
    assert!(!table.contains('%'), "{table}");
    has_pictures(&directory.path().join("run"));
    let found = evaluation(&directory.path().join("run")).evaluation;
    let checks = found.collapse;
    assert!(checks.alignment.is_finite() && checks.uniformity < 0.0 && checks.deviation > 0.0);

    // Its configuration repeats it.
    let again = ["simclr", "--config", "run/config.toml", "--out", "again"];
    trained(directory.path(), &again);
    let repeated = evaluation(&directory.path().join("again"));
    assert_eq!(repeated.evaluation, found);

    let required = arguments("--require-improvement 5");
    let words = ["--require-improvement", "npy:images.npy", "no labels"];
    refused_in_one_line(directory.path(), &required, &words);
}

#[test]
fn a_damaged_file_is_named_or_left_out_when_asked() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path();
    write_pngs(&folder.join("photos"), 10);
    let whole = fs::read(folder.join("photos/0.png")).unwrap();
    fs::write(folder.join("photos/cut.png"), &whole[..whole.len() / 2]).unwrap();
    let common = "--epochs 1 --batch 4";
    let arguments = |options: &str| arguments("simclr", "folder:photos", options);
    let words = ["photos/cut.png", "--skip-unreadable"];
    refused_in_one_line(folder, &arguments(common), &words);

    let options = format!("{common} --skip-unreadable --out photos/run");
    let (_, progress) = trained(folder, &arguments(&options));
    let left_out = "1 file could not be read and was left out, the first is photos/cut.png";
    contains(&progress, &[&format!("note: {left_out}")]);
    let page = fs::read_to_string(folder.join("photos/run/report.html")).unwrap();
    contains(&page, &[left_out]);

    // The configuration asks for the same, and the run folder inside the data is no class.
    let again = "simclr --config photos/run/config.toml --out again";
    let (_, progress) = trained(folder, &Vec::from_iter(again.split(' ')));
    contains(&progress, &[left_out, "without labels"]);
    contains(&progress, &["run folders are left out: photos/run"]);
}
