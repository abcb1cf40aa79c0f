"""Public data sets of the papers: where to get each, under which licence, and in which layout it is read.

Nothing is downloaded. A licence read only in copies of a set, not on its own page, is marked "not checked".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class KnownSet:
    """One public data set; ``aliases`` are folder names (lower case, letters and digits only) that mean it.

    ``reader`` is named where it reads this set's layout and no other's.
    """

    name: str
    page: str
    licence: str
    citation: str
    layout: str
    aliases: tuple[str, ...]
    reader: str | None = None


KNOWN_SETS = (
    KnownSet(
        "ISBI 2012 EM",
        "https://imagej.net/events/isbi-2012-segmentation-challenge",
        "after registration at its server; for non-commercial segmentation software (as copies quote the server)",
        "Cardona et al. 2010, doi:10.1371/journal.pbio.1000502; Arganda-Carreras et al. 2015, "
        "doi:10.3389/fnana.2015.00142",
        "train-volume.tif + train-labels.tif",
        ("isbi2012em", "isbi2012", "isbiem", "emsegmentation"),
    ),
    KnownSet(
        "spinal cord grey matter challenge 2016",
        "http://niftyweb.cs.ucl.ac.uk/challenge/index.php",
        "public, by its own terms (not checked)",
        "Prados et al. 2017, doi:10.1016/j.neuroimage.2017.03.010",
        "site1-sc01-image.nii.gz + site1-sc01-mask-r1.nii.gz to -r4.nii.gz",
        ("gmchallenge", "gmsegchallenge2016", "trainingdatagmscchallenge", "scgm", "gmsegchallenge"),
        "gm_challenge",
    ),
    KnownSet(
        "spinal cord grey matter, BIDS (gm-challenge-data)",
        "https://github.com/sct-pipeline/gm-challenge-data",
        "CC0 1.0",
        "the repository itself",
        "sub-*/anat/*_T2starw.nii.gz + derivatives/labels/, read with label: gmseg",
        ("spinalcordgm", "gmchallengedata"),
    ),
    KnownSet(
        "NIH Pancreas-CT",
        "https://www.cancerimagingarchive.net/collection/pancreas-ct/",
        "CC BY 3.0 (as copies state; its page not checked)",
        "Roth et al. 2016, doi:10.7937/K9/TCIA.2016.tNB1kqBU",
        "PANCREAS_0001/.../*.dcm + label0001.nii.gz, or image slices in images/ + masks/",
        ("pancreasct", "nihpancreas", "tciapancreas"),
    ),
    KnownSet(
        "BraTS",
        "https://www.med.upenn.edu/cbica/brats/ (2017 to 2020), https://www.synapse.org/Synapse:syn51156910 (2021, "
        "2023), https://www.smir.ch/BRATS/Start2015 (2015)",
        "after registration; as copies state: research with citation, 2023: CC BY-NC 4.0, 2015: CC BY-NC-SA 3.0 "
        "Switzerland",
        "Menze et al. 2015, doi:10.1109/TMI.2014.2377694; from 2017 also Bakas et al. 2017, doi:10.1038/sdata.2017.117",
        "a folder per scan: x_flair.nii.gz, x_t1.nii.gz, x_t1ce.nii.gz, x_t2.nii.gz, x_seg.nii.gz (2015: .mha)",
        ("brats", "miccaibrats"),
        "brats",
    ),
    KnownSet(
        "Medical Segmentation Decathlon",
        "http://medicaldecathlon.com",
        "CC BY-SA 4.0",
        "Simpson et al. 2019, arXiv:1902.09063",
        "imagesTr/ + labelsTr/ + dataset.json",
        ("msd", "hippocampusmsd", "spleenctmsd", "decathlon", *(f"task{number:02d}" for number in range(1, 11))),
    ),
    KnownSet(
        "BUSI breast ultrasound",
        "https://scholar.cu.edu.eg/?q=afahmy/pages/dataset",
        "copies disagree (CC0, CC BY 4.0, other); its page not checked",
        "Al-Dhabyani et al. 2020, doi:10.1016/j.dib.2019.104863",
        "benign/, malignant/, normal/ with x (1).png + x (1)_mask.png",
        ("busi", "datasetbusi", "breastultrasound"),
    ),
    KnownSet(
        "LGG MRI (kaggle_3m)",
        "https://www.kaggle.com/datasets/mateuszbuda/lgg-mri-segmentation",
        "CC BY-NC-SA 4.0 (as copies state; its page not checked)",
        "Buda et al. 2019, doi:10.1016/j.compbiomed.2019.05.002",
        "a folder per patient: x_1.tif + x_1_mask.tif",
        ("lgg", "kaggle3m"),
        "kaggle_3m",
    ),
    KnownSet(
        "usgra-seg nerve and vessel ultrasound",
        "https://github.com/tmkand/usgra-seg",
        "CC BY 4.0 (its dataset/; the code is MIT)",
        "the repository itself",
        "images/ + masks/ + test/ (its dataset/)",
        ("usgra", "usnervevessel"),
    ),
)


def known_set(path: Path) -> KnownSet | None:
    """The set that the last part of ``path`` names: an alias, alone or at its beginning; the longest counts."""
    name = re.sub(r"[^a-z0-9]", "", path.name.lower())
    matches = [(alias, one) for one in KNOWN_SETS for alias in one.aliases if name.startswith(alias)]
    return max(matches, key=lambda match: len(match[0]))[1] if matches else None


def where_to_get(path: Path, reader: str = "auto") -> str | None:
    """For the error about an absent folder: where the set of that name, else of that reader, is to be had.

    None for an unknown name and a reader of no set in particular.
    """
    one = known_set(path) or next((each for each in KNOWN_SETS if each.reader == reader), None)
    if one is None:
        return None
    return (
        f"{one.name} is not downloaded for you: get it at {one.page} (licence: {one.licence}; cite {one.citation}), "
        f"unpack it there as {one.layout}, or correct data.path"
    )
