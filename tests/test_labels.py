"""Which class a photo shows: every way to say it, and every way to say it wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from latcli.engine.labels import LabelFile, folder_label, parse_label
from latcli.errors import ExitCode, UsageError


@dataclass(frozen=True)
class Zoo:
    class_names: tuple[str, ...] = (
        "tench",
        "great white shark",
        "hen",
        "crane",
        "bicycle-built-for-two",
        "crane",
        "iPod",
        "Große Ente",
    )
    class_ids: tuple[str, ...] = tuple(f"n{index:08d}" for index in range(8))


@dataclass(frozen=True)
class Plain:
    """A classifier without WordNet ids."""

    class_names: tuple[str, ...] = ("cat", "dog")
    class_ids: tuple[str, ...] = ()


ZOO = Zoo()


def refusal(text: str, classes: Zoo | Plain = ZOO) -> UsageError:
    with pytest.raises(UsageError) as caught:
        parse_label(text, classes)
    assert caught.value.exit_code == ExitCode.USAGE
    return caught.value


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("hen", 2),
        ("HEN", 2),
        ("  hen\n", 2),
        ("great white shark", 1),
        ("Great_White-Shark", 1),
        ("great  white   shark", 1),
        ("bicycle built for two", 4),
        ("ipod", 6),
        ("GROSSE ENTE", 7),
        ("0", 0),
        ("7", 7),
        ("007", 7),
        ("n00000002", 2),
    ],
)
def test_a_class_is_named_by_name_index_or_wordnet_id(text: str, index: int) -> None:
    label = parse_label(text, ZOO)
    assert (label.index, label.name, label.source) == (index, ZOO.class_names[index], "given")


def test_an_unknown_name_gets_the_nearest_one_as_a_hint() -> None:
    error = refusal("great white shrak")
    assert error.message == "there is no class called 'great white shrak'"
    assert "did you mean 'great white shark'?" in error.hint


@pytest.mark.parametrize("text", ["", "-1", "2.0", "n99999999", "hen hen", "9" * 5000])
def test_what_names_no_class_is_refused(text: str) -> None:
    assert "there is no class called" in refusal(text).message


@pytest.mark.parametrize("text", ["8", "1000", "999999999"])
def test_an_index_out_of_range_is_refused_with_the_range(text: str) -> None:
    error = refusal(text)
    assert error.message == f"there is no class {int(text)}"
    assert "0 to 7" in error.hint


def test_a_name_of_two_classes_is_refused_with_both_indices() -> None:
    error = refusal("Crane")
    assert error.message == "'Crane' is the name of 2 classes"
    assert "3 or 5" in error.hint


def test_names_that_differ_in_case_alone_are_told_apart_by_it() -> None:
    dog_and_wool = Plain(("Cardigan", "cardigan"))
    assert parse_label("Cardigan", dog_and_wool).index == 0
    assert parse_label("cardigan", dog_and_wool).index == 1
    assert "0 or 1" in refusal("CARDIGAN", dog_and_wool).hint


def test_a_classifier_without_wordnet_ids_knows_none() -> None:
    assert "no class called" in refusal("n00000000", Plain()).message


# CSV files


def label_file(tmp_path: Path, text: str | bytes) -> LabelFile:
    path = tmp_path / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return LabelFile(path)


@pytest.mark.parametrize(
    "text",
    [
        "a.jpg,hen\n",
        "a.jpg,2\n",
        "a.jpg,n00000002\n",
        "file,name\na.jpg,hen\n",
        "file,label\na.jpg,2\n",
        "index,file\n2,a.jpg\n",
        "File , Index\n a.jpg , 2 \n",
        "path,class\r\na.jpg,Hen\r\n",
        "\ufefffile,name\na.jpg,hen\n",
        "\ufeffa.jpg,hen\n",
        "\n\nfile,name\n\n,\na.jpg,hen\n\n",
        '"a.jpg","hen"\n',
        "score,image,index,name\n.5,a.jpg,,hen\n",
        "file,index,name\na.jpg,2,tench\n",
        "file,name,index\na.jpg,tench,2\n",
        "photo,imagenet_index,name\na.jpg,2,hen",
    ],
)
def test_a_csv_names_the_class_of_a_photo(text: str, tmp_path: Path) -> None:
    label = label_file(tmp_path, text).label_of(tmp_path / "a.jpg", ZOO)
    assert (label.index, label.name, label.source) == (2, "hen", "file")


def test_the_first_row_without_a_word_for_files_is_no_header(tmp_path: Path) -> None:
    labels = label_file(tmp_path, "name.jpg,hen\nb.jpg,tench\n")
    assert labels.label_of(tmp_path / "name.jpg", ZOO).name == "hen"
    assert labels.label_of(tmp_path / "b.jpg", ZOO).name == "tench"


def test_files_are_relative_to_the_csv_not_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    labels = label_file(tmp_path, f"x/a.jpg,hen\ny/a.jpg,tench\n{tmp_path}/z/a.jpg,iPod\n")
    assert labels.label_of(tmp_path / "x/a.jpg", ZOO).name == "hen"
    assert labels.label_of(Path("../y/../x/a.jpg"), ZOO).name == "hen"
    assert labels.label_of(Path("../y/a.jpg"), ZOO).name == "tench"
    assert labels.label_of(tmp_path / "z/a.jpg", ZOO).name == "iPod"


def test_a_photo_of_another_folder_is_found_by_its_bare_name_if_that_is_unique(tmp_path: Path) -> None:
    labels = label_file(tmp_path, "x/a.jpg,hen\nx/b.jpg,hen\ny/b.jpg,tench\nx/c.jpg,iPod\ny/c.jpg,iPod\n")
    assert labels.label_of(tmp_path / "other" / "a.jpg", ZOO).name == "hen"
    assert labels.label_of(tmp_path / "other" / "c.jpg", ZOO).name == "iPod"
    with pytest.raises(UsageError, match=r"2 different labels for files called b\.jpg"):
        labels.label_of(tmp_path / "other" / "b.jpg", ZOO)


def test_a_photo_that_the_csv_does_not_name_is_refused(tmp_path: Path) -> None:
    labels = label_file(tmp_path, "a.jpg,hen\n")
    with pytest.raises(UsageError, match=r"labels\.csv has no label for .*b\.jpg") as caught:
        labels.label_of(tmp_path / "b.jpg", ZOO)
    assert "add a row" in caught.value.hint


def test_a_class_that_the_csv_gets_wrong_is_refused_when_it_is_asked_for(tmp_path: Path) -> None:
    labels = label_file(tmp_path, "a.jpg,hne\nb.jpg,hen\n")
    assert labels.label_of(tmp_path / "b.jpg", ZOO).name == "hen"
    with pytest.raises(UsageError, match="no class called 'hne'"):
        labels.label_of(tmp_path / "a.jpg", ZOO)


@pytest.mark.parametrize("text", ["a.jpg,hen\nb.jpg\n", "a.jpg,hen\nb.jpg,\n", "file,name\nb.jpg, \n"])
def test_a_row_without_a_label_is_refused_with_its_number(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"labels\.csv, row 2: a file and a label are needed"):
        label_file(tmp_path, text)


@pytest.mark.parametrize("text", ["", "\n\n", ",,\n"])
def test_an_empty_csv_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="are empty"):
        label_file(tmp_path, text)


def test_a_header_without_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no column of classes"):
        label_file(tmp_path, "file,width\na.jpg,20\n")


@pytest.mark.parametrize(
    "content",
    [b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01", b"a.jpg\0,hen\n", b'a.jpg,"' + b"x" * 200_000 + b'"\n'],
    ids=["JPEG", "NUL", "one huge field"],
)
def test_a_binary_file_is_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the labels") as caught:
        label_file(tmp_path, content)
    assert "CSV" in caught.value.hint


@pytest.mark.parametrize("name", ["nowhere.csv", "."])
def test_a_csv_that_is_not_there_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the labels"):
        LabelFile(tmp_path / name)


def test_links_that_lead_in_circles_harm_no_csv(tmp_path: Path) -> None:
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    labels = label_file(tmp_path, "circle.jpg,hen\na.jpg,tench\n")
    assert labels.label_of(tmp_path / "circle.jpg", ZOO).name == "hen"
    assert labels.label_of(tmp_path / "a.jpg", ZOO).name == "tench"


# Folders


@pytest.mark.parametrize(
    "folder", ["hen", "Hen", "2", "n00000002", "n00000002_hen", "n00000002-hen", "n00000002 old hen"]
)
def test_the_folder_of_a_photo_names_its_class(folder: str, tmp_path: Path) -> None:
    label = folder_label(tmp_path / folder / "a.jpg", ZOO)
    assert (label.index, label.source) == (2, "folder")


def test_the_folder_is_the_real_one_of_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "great_white_shark").mkdir()
    monkeypatch.chdir(tmp_path / "great_white_shark")
    assert folder_label(Path("a.jpg"), ZOO).index == 1


def test_without_wordnet_ids_the_whole_name_of_the_folder_counts(tmp_path: Path) -> None:
    classes = Plain(class_names=("cat", "n00000000_dog"))
    assert folder_label(tmp_path / "n00000000_dog" / "a.jpg", classes).index == 1


@pytest.mark.parametrize("folder", ["holiday", "n99999999_hen", "n0000000_hen"])
def test_a_folder_that_names_no_class_is_refused(folder: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no class called"):
        folder_label(tmp_path / folder / "a.jpg", ZOO)


# The real names


@pytest.fixture(scope="module")
def imagenet() -> Zoo:
    from latcli.engine.models.imagenet_networks import imagenet_ids, imagenet_names

    return Zoo(tuple(imagenet_names()), tuple(imagenet_ids()))


def test_names_and_wordnet_ids_of_imagenet_belong_together(imagenet: Zoo, tmp_path: Path) -> None:
    assert len(imagenet.class_names) == len(imagenet.class_ids) == 1000
    for text in ("hen", "8", "n01514859"):
        assert parse_label(text, imagenet).index == 8
    for folder in ("n01514859_hen", "hen", "8", "n01514859"):
        assert folder_label(tmp_path / folder / "a.jpg", imagenet).index == 8
    assert parse_label("Great White Shark", imagenet).index == parse_label("n01484850", imagenet).index == 2


def test_every_name_of_imagenet_means_one_class(imagenet: Zoo) -> None:
    assert [parse_label(name, imagenet).index for name in imagenet.class_names] == list(range(1000))


@pytest.mark.parametrize("name", ["hen", "Große Ente"])
def test_a_file_of_labels_is_read_whole_or_not_at_all(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its length is counted in bytes, of which some letters have several."""
    labels = tmp_path / "labels.csv"
    labels.write_text(f"file,name\na.jpg,{name}\n", encoding="utf-8")
    length = labels.stat().st_size
    monkeypatch.setattr("latcli.engine.labels._MOST_BYTES", length)
    assert LabelFile(labels).label_of(tmp_path / "a.jpg", Zoo()).name == name
    monkeypatch.setattr("latcli.engine.labels._MOST_BYTES", length - 1)
    with pytest.raises(UsageError, match="longer than"):
        LabelFile(labels)
