"""Ed25519: the vectors of RFC 8032, and nothing else than the one signature of a message is valid."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retort.serve.signing.ed25519 import is_public_key, public_key, sign, verify

ORDER = 2**252 + 27742317777372353535851937790883648493
SEED = bytes(range(32))
KEY, MESSAGE = public_key(SEED), b"the checksums of a model"
SIGNATURE = sign(SEED, MESSAGE)
LONG = """
08b8b2b733424243760fe426a4b54908632110a66c2f6591eabd3345e3e4eb98fa6e264bf09efe12ee50f8f54e9f77b1e355f6c50544e23f
b1433ddf73be84d879de7c0046dc4996d9e773f4bc9efe5738829adb26c81b37c93a1b270b20329d658675fc6ea534e0810a4432826bf58c
941efb65d57a338bbd2e26640f89ffbc1a858efcb8550ee3a5e1998bd177e93a7363c344fe6b199ee5d02e82d522c4feba15452f80288a82
1a579116ec6dad2b3b310da903401aa62100ab5d1a36553e06203b33890cc9b832f79ef80560ccb9a39ce767967ed628c6ad573cb116dbef
efd75499da96bd68a8a97b928a8bbc103b6621fcde2beca1231d206be6cd9ec7aff6f6c94fcd7204ed3455c68c83f4a41da4af2b74ef5c53
f1d8ac70bdcb7ed185ce81bd84359d44254d95629e9855a94a7c1958d1f8ada5d0532ed8a5aa3fb2d17ba70eb6248e594e1a2297acbbb39d
502f1a8c6eb6f1ce22b3de1a1f40cc24554119a831a9aad6079cad88425de6bde1a9187ebb6092cf67bf2b13fd65f27088d78b7e883c8759
d2c4f5c65adb7553878ad575f9fad878e80a0c9ba63bcbcc2732e69485bbc9c90bfbd62481d9089beccf80cfe2df16a2cf65bd92dd597b07
07e0917af48bbb75fed413d238f5555a7a569d80c3414a8d0859dc65a46128bab27af87a71314f318c782b23ebfe808b82b0ce26401d2e22
f04d83d1255dc51addd3b75a2b1ae0784504df543af8969be3ea7082ff7fc9888c144da2af58429ec96031dbcad3dad9af0dcbaaaf268cb8
fcffead94f3c7ca495e056a9b47acdb751fb73e666c6c655ade8297297d07ad1ba5e43f1bca32301651339e22904cc8c42f58c30c04aafdb
038dda0847dd988dcda6f3bfd15c4b4c4525004aa06eeff8ca61783aacec57fb3d1f92b0fe2fd1a85f6724517b65e614ad6808d6f6ee34df
f7310fdc82aebfd904b01e1dc54b2927094b2db68d6f903b68401adebf5a7e08d78ff4ef5d63653a65040cf9bfd4aca7984a74d371459867
80fc0b16ac451649de6188a7dbdf191f64b5fc5e2ab47b57f7f7276cd419c17a3ca8e1b939ae49e488acba6b965610b5480109c8b17b80e1
b7b750dfc7598d5d5011fd2dcc5600a32ef5b52a1ecc820e308aa342721aac0943bf6686b64b2579376504ccc493d97e6aed3fb0f9cd71a4
3dd497f01f17c0e2cb3797aa2a2f256656168e6c496afc5fb93246f6b1116398a346f1a641f3b041e989f7914f90cc2c7fff357876e506b5
0d334ba77c225bc307ba537152f3f1610e4eafe595f6d9d90d11faa933a15ef1369546868a7f3a45a96768d40fd9d03412c091c6315cf4fd
e7cb68606937380db2eaaa707b4c4185c32eddcdd306705e4dc1ffc872eeee475a64dfac86aba41c0618983f8741c5ef68d3a101e8a3b8ca
c60c905c15fc910840b94c00a0b9d0
"""
VECTORS = {
    "TEST 1": (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24"
        "655141438e7a100b",
    ),
    "TEST 2": (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aee"
        "b00d291612bb0c00",
    ),
    "TEST 3": (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28d"
        "c027beceea1ec40a",
    ),
    "TEST 1024": (
        "f5e5767cf153319517630f226876b86c8160cc583bc013744c6bf255f5cc0ee5",
        "278117fc144c72340f67d0f2316e8386ceffbf2b2428c9c51fef7c597f1d426e",
        LONG,
        "0aab4c900501b3e24d7cdf4663326a3a87df5e4843b2cbdb67cbf6e460fec350aa5371b1508f9f4528ecea23c436d94b5e8fcd4f681e30a6"
        "ac00a9704a188a03",
    ),
    "TEST SHA(abc)": (
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e"
        "2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17a"
        "d9bef1177331a704",
    ),
}
"""RFC 8032, section 7.1: private key, public key, message and signature, in hex."""
SMALL = (
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
)
"""The eight points whose order divides the cofactor."""
OTHER_ENCODINGS = (
    "0100000000000000000000000000000000000000000000000000000000000080",  # x is 0 and said to be odd
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",  # y is the prime
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
)
"""Encodings that RFC 8032 does not allow, of the points above."""


@pytest.mark.parametrize("name", VECTORS)
def test_the_vectors_of_the_standard(name: str) -> None:
    """Public keys and signatures are those of RFC 8032, byte for byte, and they are valid."""
    seed, key, message, signature = (bytes.fromhex(text) for text in VECTORS[name])
    assert public_key(seed) == key
    assert sign(seed, message) == signature
    assert verify(key, message, signature)
    assert not verify(key, message + b"\0", signature)


@settings(max_examples=40, deadline=None)
@given(bit=st.integers(0, 8 * (64 + 32 + len(MESSAGE)) - 1))
def test_any_flipped_bit_makes_a_signature_invalid(bit: int) -> None:
    """Also in the key and in the message."""
    content = bytearray(SIGNATURE + KEY + MESSAGE)
    content[bit // 8] ^= 1 << bit % 8
    assert not verify(bytes(content[64:96]), bytes(content[96:]), bytes(content[:64]))


@given(length=st.integers(0, 80).filter(lambda length: length != 64))
def test_a_signature_has_64_bytes(length: int) -> None:
    """A shorter or longer one is not valid."""
    assert not verify(KEY, MESSAGE, (SIGNATURE + SIGNATURE)[:length])


@pytest.mark.parametrize("times", [1, 2, 14])
def test_a_signature_has_no_second_form(times: int) -> None:
    """S plus the order of the group would satisfy the equation as well, and is refused (malleability)."""
    s = int.from_bytes(SIGNATURE[32:], "little") + times * ORDER
    assert verify(KEY, MESSAGE, SIGNATURE)
    assert not verify(KEY, MESSAGE, SIGNATURE[:32] + s.to_bytes(32, "little"))


@pytest.mark.parametrize("key", [*SMALL, *OTHER_ENCODINGS])
def test_keys_that_fit_any_message_are_refused(key: str) -> None:
    """With a key of small order, R = the neutral point and S = 0 would be a signature of every message."""
    content, neutral = bytes.fromhex(key), bytes.fromhex(SMALL[0])
    assert not is_public_key(content)
    for message in (b"", b"1", b"12"):
        assert not verify(content, message, neutral + bytes(32))


def test_points_off_the_curve_and_other_lengths_are_no_keys() -> None:
    """Half of all numbers are not the y of a point."""
    assert is_public_key(KEY)
    assert not is_public_key((2).to_bytes(32, "little"))
    assert not is_public_key(KEY[:31])
    assert not is_public_key(KEY + b"\0")


@pytest.mark.parametrize("point", OTHER_ENCODINGS)
def test_r_must_be_encoded_canonically(point: str) -> None:
    """Another encoding of R would make a second form of a signature."""
    assert not verify(KEY, MESSAGE, bytes.fromhex(point) + SIGNATURE[32:])


def test_the_equation_has_the_cofactor() -> None:
    """A signature whose R has a part of order 8 is valid, as by the first of the two equations of RFC 8032."""
    signature = (
        "d0c519a064dbe995f089cbfe47630628e8f96444c1abd99b7858108e83343279605a8a8cabf71b0a060c19ee3436d5ffd0e6196e00dfd72e"
        "66c1122e1f358c0d"
    )
    assert verify(KEY, b"mixed", bytes.fromhex(signature))
