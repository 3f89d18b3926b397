/* CRC-32 as in zlib, 16 bytes at a time. */
void thinwire_fill_crc(uint32_t crc[16][256]) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t value = byte;
        for (int bit = 0; bit < 8; bit++) value = value >> 1 ^ (value & 1 ? 0xedb88320u : 0);
        crc[0][byte] = value;
    }
    for (int table = 1; table < 16; table++)
        for (int byte = 0; byte < 256; byte++)
            crc[table][byte] = crc[table - 1][byte] >> 8 ^ crc[0][crc[table - 1][byte] & 0xff];
}

static uint32_t crc32(const tables_t *c, const uint8_t *bytes, int64_t count) {
    uint32_t value = 0xffffffffu;
    for (; count >= 16; count -= 16, bytes += 16) {
        uint32_t word[4];
        memcpy(word, bytes, sizeof word);
        word[0] ^= value;
        value = 0;
        for (int w = 0; w < 4; w++)
            for (int b = 0; b < 4; b++) value ^= c->crc[15 - 4 * w - b][word[w] >> (8 * b) & 0xff];
    }
    for (; count; count--, bytes++) value = value >> 8 ^ c->crc[0][(value ^ *bytes) & 0xff];
    return ~value;
}
