"""Which class a photo shows: every way to name it, and every way to get it wrong."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path

import pytest

from latcli.engine.labels import LabelFile, folder_label, known_class, parse_label
from latcli.errors import UsageError
from latcli.results import Label


@dataclass(frozen=True)
class Zoo:
    class_names: tuple[str, ...] = (
        *("tench", "great white shark", "hen", "crane", "bicycle-built-for-two", "crane", "iPod", "Große Ente"),
    )
    class_ids: tuple[str, ...] = tuple(f"n{index:08d}" for index in range(8))


ZOO = Zoo()
#: Folders called by numbers, in the order of their names as texts.
NUMBERS = Zoo(("0", "1", "10", "11", "2", "3", "4", "5", "6", "7", "8", "9"), ())


def label_file(folder, text):
    path = folder / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return LabelFile(path)


def test_a_class_is_named_by_name_index_or_wordnet_id():
    named = {
        **{"hen": 2, "HEN": 2, "  hen\n": 2, "Great_White-Shark": 1, "great  white   shark": 1, "GROSSE ENTE": 7},
        **{"bicycle built for two": 4, "ipod": 6, "0": 0, "7": 7, "007": 7, "n00000002": 2},
        unicodedata.normalize("NFD", "große ente"): 7,
    }
    for text, index in named.items():
        assert parse_label(text, ZOO) == Label(index, ZOO.class_names[index], "given"), text


def test_a_name_comes_before_an_index(tmp_path):
    for text, index in [("2", 4), ("10", 2), ("9", 11), ("02", 4)]:
        labels = label_file(tmp_path, f"file,label\na.jpg,{text}\n")
        found = [
            *(parse_label(text, NUMBERS), folder_label(tmp_path / text / "a.jpg", NUMBERS)),
            labels.label_of(tmp_path / "a.jpg", NUMBERS),
        ]
        assert [(label.index, label.name) for label in found] == [(index, NUMBERS.class_names[index])] * 3
        # but a column of indices holds indices
        assert label_file(tmp_path, "file,index\na.jpg,2\n").label_of(tmp_path / "a.jpg", NUMBERS).name == "10"


def test_a_class_of_another_set_is_known_by_name_never_by_index():
    assert known_class("n00000002_old_hen", ZOO) == parse_label("hen", ZOO, "folder")
    assert [known_class(name, ZOO) for name in ("2", "crane", "cow")] == [None, None, None]
    assert known_class("10", NUMBERS) == parse_label("10", NUMBERS, "folder")


def test_what_names_no_class_or_several_is_refused():
    for text, message, hint in [
        ("great white shrak", "there is no class called 'great white shrak'", "'great white shark'"),
        *((text, "there is no class called", "") for text in ("", "-1", "2.0", "²", "n99999999", "hen hen")),
        *((text, f"there is no class {text[:9]}", "0 to 7") for text in ("8", "9" * 5000)),
        ("Crane", "'Crane' is the name of 2 classes", "3 or 5"),
    ]:
        with pytest.raises(UsageError) as caught:
            parse_label(text, ZOO)
        assert caught.value.message.startswith(message)
        assert len(caught.value.message) < 60
        assert hint in caught.value.hint


def test_names_that_differ_in_case_alone_are_told_apart_by_it():
    dog_and_wool = Zoo(("Cardigan", "cardigan"), ())
    assert [parse_label(name, dog_and_wool).index for name in ("Cardigan", "cardigan")] == [0, 1]
    with pytest.raises(UsageError, match="2 classes"):
        parse_label("CARDIGAN", dog_and_wool)


def test_every_name_and_wordnet_id_of_imagenet_means_one_class():
    from latcli.engine.models.libraries import imagenet_ids, imagenet_names

    imagenet = Zoo(imagenet_names(), imagenet_ids())
    for names in (imagenet.class_names, imagenet.class_ids):
        assert [parse_label(name, imagenet).index for name in names] == list(range(1000))


SAME = [
    *("a.jpg,hen\n", "a.jpg,2\n", "a.jpg,n00000002\n", '"a.jpg","hen"\n', "a.jpg;hen\n", "a.jpg\then\n"),
    *("file,name\na.jpg,hen\n", "file,label\na.jpg,2\n", "index,file\n2,a.jpg\n", "File , Index\n a.jpg , 2 \n"),
    *("path,class\r\na.jpg,Hen\r\n", "\ufefffile,name\na.jpg,hen\n", "\ufeffa.jpg,hen\n"),
    *("\n\nfile,name\n\n,\na.jpg,hen\n\n", "score,image,index,name\n.5,a.jpg,,hen\n"),
    *("file,index,name\na.jpg,2,Hen\n", "file,name,index\na.jpg,chicken,2\n", "photo,imagenet_index,name\na.jpg,2,hen"),
    "name.jpg,tench\na.jpg,hen\n",  # no header: no word for files is in it
    *("file;score;name\na.jpg;0,5;hen\n", "file\tname\na.jpg\then\n", "file,name\n./x\\..\\a.jpg,hen\n"),
]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_csv_names_the_class_of_a_photo(encoding, tmp_path):
    for text in SAME:
        content = text.removeprefix("\ufeff") if encoding == "utf-16" else text
        label = label_file(tmp_path, content.encode(encoding)).label_of(tmp_path / "a.jpg", ZOO)
        assert label == Label(2, "hen", "file"), text


def test_files_are_relative_to_the_csv_and_else_known_by_a_bare_name_that_is_unique(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    nfc, nfd = (unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD"))
    labels = label_file(tmp_path, f"x/a.jpg,hen\ny\\a.jpg,tench\n{tmp_path}/z/a.jpg,iPod\n{nfc},tench\n")
    photos = ("../y/../x/a.jpg", "../y/a.jpg", "../z/a.jpg", f"../{nfd}")
    assert [labels.label_of(Path(path), ZOO).name for path in photos] == ["hen", "tench", "iPod", "tench"]
    labels = label_file(tmp_path, "C:\\x\\a.jpg,hen\nx/b.jpg,hen\ny/b.jpg,tench\nx/c.jpg,iPod\ny/c.jpg,iPod\n")
    assert [labels.label_of(tmp_path / "other" / name, ZOO).name for name in ("a.jpg", "c.jpg")] == ["hen", "iPod"]
    with pytest.raises(UsageError, match=r"2 different labels for files called b\.jpg"):
        labels.label_of(tmp_path / "other" / "b.jpg", ZOO)


def test_links_have_the_labels_of_their_own_names(tmp_path):
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "1.jpg").touch()
    for name in ("hen.jpg", "kite.jpg", "more.jpg"):
        (tmp_path / name).symlink_to(tmp_path / "pool" / "1.jpg")
    labels = label_file(tmp_path, "hen.jpg,hen\nkite.jpg,tench\n")
    assert [labels.label_of(tmp_path / f"{name}.jpg", ZOO).name for name in ("hen", "kite")] == ["hen", "tench"]
    with pytest.raises(UsageError, match="different labels"):
        labels.label_of(tmp_path / "more.jpg", ZOO)
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    assert label_file(tmp_path, "circle.jpg,hen\n").label_of(tmp_path / "circle.jpg", ZOO).name == "hen"


def test_a_photo_without_a_right_row_is_refused_when_it_is_asked_for(tmp_path):
    for text, message in [
        ("b.jpg,hen\n", r"labels\.csv has no label for .*a\.jpg"),
        ("a.jpg,hne\nb.jpg,hen\n", "no class called 'hne'"),
        ("a.jpg,9\nb.jpg,hen\n", "no class 9"),
        ("id,file,name\n1,a.jpg,hen\n2,b.jpg,hen", "index 1 is 'great white shark', but the row's name is 'hen'"),
    ]:
        labels = label_file(tmp_path, text)
        assert labels.label_of(tmp_path / "b.jpg", ZOO).name == "hen"
        with pytest.raises(UsageError, match=message):
            labels.label_of(tmp_path / "a.jpg", ZOO)


def test_a_file_that_cannot_be_read_as_labels_is_refused(tmp_path):
    for content, message in [
        (b"a.jpg,hen\nb.jpg\n", r"a file and a label are needed, not 'b\.jpg'"),
        (b"file,name\nb.jpg, \n", "a file and a label are needed"),
        *((blank, "is empty") for blank in (b"", b"\n,,\n")),
        (b"a.jpg|hen\n", r"only one column: 'a\.jpg\|hen'"),
        (b"file,width\na.jpg,20\n", "no column of classes"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01", "cannot read the labels file"),
        ("a.jpg,Große Ente\n".encode("latin-1"), "cannot read the labels file .*utf-8"),
        (b"\xff\xfea\0.", "cannot read the labels file"),  # cut UTF-16
        (b"a.jpg\0,hen\n", "cannot read the labels file .*binary"),
        (b'a.jpg,"' + b"x" * 200_000 + b'"\n', "cannot read the labels file"),
    ]:
        with pytest.raises(UsageError, match=message):
            label_file(tmp_path, content)
        for path in (tmp_path, tmp_path / "nowhere.csv"):
            with pytest.raises(UsageError, match="cannot read the labels file"):
                LabelFile(path)


def test_the_folder_of_a_photo_as_it_was_given_names_its_class(tmp_path, monkeypatch):
    for folder in ["hen", "Hen", "2", "n00000002", "n00000002_hen", "n00000002-hen", "n00000002 old hen"]:
        label = folder_label(tmp_path / folder / "a.jpg", ZOO)
        assert (label.index, label.source) == (2, "folder")
    for folder in ("tench", "great_white_shark"):
        (tmp_path / folder).mkdir()
    (tmp_path / "tench" / "a.jpg").touch()
    (tmp_path / "great_white_shark" / "b.jpg").symlink_to(tmp_path / "tench" / "a.jpg")
    (tmp_path / "hen").symlink_to("tench")
    assert folder_label(tmp_path / "great_white_shark" / "b.jpg", ZOO).index == 1
    assert folder_label(tmp_path / "hen" / "a.jpg", ZOO).index == 2
    monkeypatch.chdir(tmp_path / "great_white_shark")
    assert [folder_label(Path(path), ZOO).index for path in ("b.jpg", "../tench/a.jpg")] == [1, 0]
    for folder in ("holiday", "n99999999_hen", "n0000000_hen"):
        with pytest.raises(UsageError, match="there is no class called"):
            folder_label(tmp_path / folder / "a.jpg", ZOO)
    # without WordNet ids the whole name counts
    assert folder_label(tmp_path / "n00000000_dog" / "a.jpg", Zoo(("cat", "n00000000_dog"), ())).index == 1
