from timm.data import ImageNetInfo

from tlcli.backbones.imagenet import synsets, titles


def test_synsets__of_imagenet_1k() -> None:
    names = synsets("imagenet-1k")
    assert len(names) == len(set(names)) == 1000
    assert names[0] == "n01440764"
    assert names[999] == "n15075141"
    assert list(names) == sorted(names)  # the order in which the challenge numbers its classes


def test_synsets__of_imagenet_12k_and_22k_in_timms_order() -> None:
    assert len(synsets("imagenet-12k")) == 11821
    names = synsets("imagenet-22k")
    assert len(names) == 21841
    info = ImageNetInfo("imagenet-22k")
    assert [names[i] for i in (0, 7, 21840)] == [info.index_to_label_name(i) for i in (0, 7, 21840)]


def test_titles__of_known_classes() -> None:
    found = titles("imagenet-1k")
    assert tuple(found) == synsets("imagenet-1k")
    assert found["n01440764"].startswith("tench")
    assert found["n02123045"].startswith("tabby")
